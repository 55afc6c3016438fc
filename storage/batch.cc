#include "storage/batch.h"

namespace wayside {

bool ends_batch(const Op& op) {
  const auto* settle = std::get_if<SettleQuarantined>(&op);
  const auto* check = std::get_if<CheckReplay>(&op);
  return (settle != nullptr && settle->already) || (check != nullptr && check->known);
}

std::size_t op_bytes(const Op& op) {
  const auto* a = std::get_if<Append>(&op);
  if (a == nullptr) return 64;
  const auto size = [](const std::optional<std::string>& s) { return s ? s->size() : 0; };
  return 200 + size(a->record.key) + size(a->record.value) + a->record.headers.size();
}

}  // namespace wayside
