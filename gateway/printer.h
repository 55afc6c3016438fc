// Prints records in the forms that the verbs share. Thread: main's.
#pragma once

#include <string>

#include "gateway/cli.h"
#include "storage/record.h"

namespace wayside {

class RecordPrinter {
 public:
  // Prints the heading that the format has. `topic` must outlive it.
  RecordPrinter(Format format, const std::string& topic);
  void print(std::int32_t partition, const StoredRecord& record) const;

 private:
  Format format_;
  const std::string& topic_;
};

}  // namespace wayside
