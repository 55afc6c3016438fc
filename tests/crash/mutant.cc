// The gateway with one thing wrong on purpose: a batch is called done when it is handed in, before
// any commit; with MUTANT=qos2 only the removal of a QoS 2 identifier, so that PUBCOMP goes before
// it. The kill tests must turn red with it (tests/e2e/test_kill.py, TestOfTheTest).
#include <cstdlib>
#include <vector>

#include "gateway/gateway.h"

namespace {

using namespace wayside;

class AckOnReceipt final : public BatchSink {
 public:
  explicit AckOnReceipt(BatchSink& log) : log_(log) {}
  void submit(Batch batch) override {
    // Sessions must still be opened in earnest: their answer comes from the log.
    const bool opens = !batch.ops.empty() && std::holds_alternative<OpenSession>(batch.ops.front());
    const bool removes =
        !batch.ops.empty() && std::holds_alternative<RemoveQos2Id>(batch.ops.front());
    if ((qos2_ ? removes : !opens) && batch.done) {
      batch.done(batch, Status{});
      batch.done = nullptr;
    }
    // Nobody waits for it any more: it comes too late for a kill.
    if (qos2_ && removes) {
      late_.push_back(std::move(batch));
      return;
    }
    log_.submit(std::move(batch));
  }
  void flush() override { log_.flush(); }

 private:
  BatchSink& log_;
  const bool qos2_ = std::getenv("MUTANT") != nullptr;
  std::vector<Batch> late_;
};

}  // namespace

int main(int argc, char** argv) {
  // As `wayside run -c FILE`.
  return argc == 4 ? run_gateway(argv[3],
                                 [](BatchSink& log) -> std::unique_ptr<BatchSink> {
                                   return std::make_unique<AckOnReceipt>(log);
                                 })
                   : 2;
}
