// What is not wrong in a configuration, but worth a word: for `check`, for the journal at a start,
// and what is urgent for `status`. Looks at the files that it names. Thread: pure function.
#pragma once

#include <string>
#include <vector>

#include "gateway/plan/plan.h"

namespace wayside {

struct Warning {
  std::string text;
  bool urgent = false;  // something is lost, or given away
};
[[nodiscard]] std::vector<Warning> warnings_of(const Plan& plan);

}  // namespace wayside
