#!/usr/bin/env python3
"""Makes tests/golden/vN.db: a log as version N of the file format writes it, by the program of that
time (v1.db was made by 0.1.0, v2.db by 0.2.0, v3.db by 0.3.0). Not run by the
tests; the files are kept for ever, and every later program must read them (golden_test.cc)."""

import os
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "e2e"))
from harness import PUBREC, TOPICS, Gateway, Wire, publish_packet, wait_for  # noqa: E402


def main():
    topics = TOPICS + ('[[topic]]\nname = "gone"\n[[route]]\nmqtt = "gone"\ntopic = "gone"\n'
                       'payload = "raw"\n[[route]]\nmqtt = "cbor"\ntopic = "by_vin"\n'
                       'key = "/k"\npayload = "cbor"\n')
    with Gateway(commit='linger = "5ms"', tail="[storage]\nsegment_rows = 100",
                 topics=topics) as gateway:
        with Wire(gateway.port) as wire:
            wire.connect("truck", 5, clean=False, properties=b"\x11\xff\xff\xff\xff")
            for i in range(150):
                wire.send(publish_packet("raw/x", f"value {i}", 1, i + 1, 5))
                wire.read()
            wire.send(publish_packet("fleet/7/gps", '{"ts":1795339391,"speed":61.5}', 1, 200, 5))
            wire.read()
            wire.send(publish_packet("raw/x", b"\xff\x00\x01", 1, 201, 5, retain=True))
            wire.read()
            wire.send(publish_packet("fleet/7/gps", "not json", 1, 202, 5))
            wire.read()
            for i, payload in enumerate(("one", "another")):
                wire.send(publish_packet("gone", payload, 1, 203 + i, 5))
                wire.read()
            wire.send(publish_packet("cbor", b"\xa1\x61k\x61v", 1, 205, 5))  # {"k": "v"}
            wire.read()
            wire.send(publish_packet("raw/x", "two", 2, 777, 5))  # its PUBREL never comes
            assert wire.read()[0] == PUBREC
        wait_for(lambda: gateway.sql("SELECT count(*) FROM _ws_segments WHERE indexed") == [(1,)],
                 "the closed segment is indexed")
        wait_for(lambda: gateway.sql("SELECT count(*) FROM _ws_sessions WHERE disconnected_ms IS"
                                     " NOT NULL") == [(1,)], "the session is closed")
        gateway.cli("read", "raw", "--group", "dash", "-n", "7", check=0)
        gateway.cli("quarantine", "drop", "0", "--yes", check=0)
        gateway.edit('[[topic]]\nname = "gone"\n[[route]]\nmqtt = "gone"\ntopic = "gone"\n'
                     'payload = "raw"\n', "")
        gateway.cli("reload", check=0)
        gateway.cli("topics", "delete", "gone", "--yes", check=0)
        assert gateway.stop() == 0
        # Only what is in the file itself: the log was closed cleanly.
        assert not os.path.exists(gateway.data_dir + "/wayside.db-wal") or \
            os.path.getsize(gateway.data_dir + "/wayside.db-wal") == 0
        shutil.copy(gateway.data_dir + "/wayside.db", os.path.join(HERE, "v4.db"))


main()
