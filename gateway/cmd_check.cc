#include <cstdio>

#include "base/text.h"
#include "gateway/cli.h"

namespace wayside {

int cmd_check(const CheckArgs& args) {
  if (args.print_default || args.print_reference) {
    const std::string text = args.print_default ? render_default_config() : render_reference();
    std::fputs(text.c_str(), stdout);
    return kExitOk;
  }
  auto loaded = load_config(args.config);
  if (!loaded) {
    report(loaded.error());
    return kExitConfiguration;
  }
  const Plan plan = make_plan(loaded->config, loaded->problems);
  if (!loaded->problems.empty()) {
    std::fputs(problems_text(args.config, loaded->problems).c_str(), stderr);
    std::fprintf(stderr, "wayside: %zu problem%s in %s\n", loaded->problems.size(),
                 loaded->problems.size() == 1 ? "" : "s", args.config.c_str());
    return kExitConfiguration;
  }
  std::printf("%s is sound: %zu topics, %zu routes, %zu bridges\n", args.config.c_str(),
              plan.config.topics.size(), plan.routes.size(), plan.config.bridges.size());
  return kExitOk;
}

}  // namespace wayside
