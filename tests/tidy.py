#!/usr/bin/env python3
"""A test over the source tree: which folder may include which, where each third-party header may
be included, how long lines and files may be, and that what the documents name exists."""

import os
import re
import subprocess
import sys

FOLDERS = {  # folder: what it may include besides itself; the longest name that fits counts
    "base": set(),
    "devices": {"base"},
    "config": {"base"},
    "storage": {"base"},
    "bridge": {"base", "storage"},
    "gateway/plan": {"base", "config", "devices", "storage"},
    # The doors. None includes another.
    "gateway/mqtt": {"base", "config", "devices", "storage", "gateway/plan"},
    "gateway/control": {"base", "config", "devices", "storage", "bridge", "gateway/plan"},
    "gateway/http": {"base", "config", "storage", "bridge", "gateway/plan", "gateway/control"},
    "gateway/cli": {"base", "config", "devices", "storage", "bridge", "gateway/plan",
                    "gateway/control"},
}
FOLDERS["gateway"] = set(FOLDERS)  # puts them together
# What others still include of the inside of storage/.
STORAGE_OPEN = {"storage/engine/engine.h", "storage/recovery/recovery.h",
                "storage/recovery/rescue.h", "storage/recovery/salvager.h",
                "storage/sqlite/schema.h"}
CONFINED = {  # third-party header: the files that may include it
    "sqlite3.h": {"storage/sqlite/sqlite.cc", "tests/crash/fault_vfs.h"},
    "spdlog/": {"base/log.cc"},
    "nlohmann/": {"base/json.cc", "devices/payload.cc"},
    "toml++/": {"config/load.cc"},
    "mqtt/async_client.h": {"devices/paho_publisher.cc", "gateway/mqtt/subscriber.cc"},
    "date/": {"devices/device_time.cc"},
    "curl/": {"bridge/http_sink.cc"},
    "zlib.h": {"bridge/http_sink.cc"},
    "CLI/": {"gateway/main.cc", "gateway/cli/options.cc"},
    "microhttpd.h": {"gateway/http/server.cc"},
    "asio": {"gateway/mqtt/listener.cc", "gateway/mqtt/connection.cc", "gateway/mqtt/connection.h",
             "gateway/mqtt/session_events.cc"},
    "tl/expected.hpp": {"base/result.h", "devices/mqtt/packet.h"},
}
problems = []


def folder_of(path):
    return max((f for f in FOLDERS if path.startswith(f + "/")), key=len, default=None)


def problem(path, line, text):
    problems.append(f"{path}:{line}: {text}")


def check_source(path, text):
    folder = folder_of(path)
    for n, line in enumerate(text.splitlines(), 1):
        if len(line) > 100 and not path.endswith(".sh"):
            problem(path, n, f"{len(line)} columns; 100 are allowed")
        if path != "tests/tidy.py" and re.search(r"\bNOLINT\b(?!.*// )", line):
            problem(path, n, "a NOLINT without its reason")
        found = re.match(r'\s*#include\s+([<"])([^>"]+)', line)
        if not found:
            continue
        bracket, header = found.groups()
        if bracket == '"' and folder is not None:
            target = folder_of(header) or os.path.dirname(header)
            inner = re.match(r"storage/\w+/", header)
            if inner and not path.startswith("storage/") and header not in STORAGE_OPEN:
                problem(path, n, f"of storage/ only the headers at its root, not {header}")
            if target != folder and target not in FOLDERS[folder]:
                problem(path, n, f"{folder}/ may not include {target}/")
        for prefix, allowed in CONFINED.items():
            if bracket == "<" and header.startswith(prefix) and path not in allowed:
                if not (prefix == "sqlite3.h" and path.startswith("bench/")):
                    problem(path, n, f"{header} is confined to {', '.join(sorted(allowed))}")
    lines = text.count("\n")
    most = 150 if path.endswith(".h") else 500
    if path == "base/limits.h":
        most = 300  # a table
    if lines > most and not path.startswith("tests/"):
        problem(path, lines, f"{lines} lines; {most} are allowed")
    if path.endswith(".h") and not text.startswith("// "):
        problem(path, 1, "a header begins with what it is")


def check_write_path():
    """docs/ARCHITECTURE.md names each step of the write path as `file`: `function`."""
    with open("docs/ARCHITECTURE.md", encoding="utf-8") as f:
        page = f.read()
    steps = re.findall(r"^\d+\. .*?`([a-z_/0-9.]+\.(?:cc|h))`: `(\w+(?:::\w+)*)`", page, re.M)
    if len(steps) < 8:
        problem("docs/ARCHITECTURE.md", 1, f"the write path names {len(steps)} steps, not 8")
    for path, function in steps:
        name = function.split("::")[-1]
        if not os.path.exists(path):
            problem("docs/ARCHITECTURE.md", 1, f"there is no {path}")
            continue
        with open(path, encoding="utf-8") as f:
            if not re.search(rf"\b{name}\(", f.read()):
                problem("docs/ARCHITECTURE.md", 1, f"{path} has no {function}")


def check_tables():
    """docs/FORMAT.md describes every table of the schema."""
    with open("storage/sqlite/schema.cc", encoding="utf-8") as f:
        tables = re.findall(r"CREATE (?:TABLE|VIEW) \"?(\w+)", f.read())
    with open("docs/FORMAT.md", encoding="utf-8") as f:
        page = f.read()
    for table in tables:
        if f"`{table}`" not in page:
            problem("docs/FORMAT.md", 1, f"the table {table} is not described")


def check_mqtt_list():
    """docs/MQTT.md names tests that exist."""
    sources = ""
    for name in os.listdir("tests/e2e"):
        if name.startswith("test_wire"):
            with open(f"tests/e2e/{name}", encoding="utf-8") as f:
                sources += f.read()
    with open("docs/MQTT.md", encoding="utf-8") as f:
        for group, test in set(re.findall(r"`([A-Z]\w+)\.(test_\w+)`", f.read())):
            if f"class {group}(" not in sources or f"def {test}(" not in sources:
                problem("docs/MQTT.md", 1, f"there is no test {group}.{test}")


def main():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], capture_output=True,
                            text=True, check=False)
    files = listed.stdout.split() if listed.returncode == 0 else [
        os.path.relpath(os.path.join(d, f)) for d, _, names in os.walk(".") for f in names
        if not d.startswith(("./build", "./.git"))]
    for path in files:
        if path.endswith((".cc", ".h", ".py", ".sh")) and os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                check_source(path, f.read())
    check_write_path()
    check_tables()
    check_mqtt_list()
    print("\n".join(problems) or f"{len(files)} files are tidy")
    sys.exit(1 if problems else 0)


main()
