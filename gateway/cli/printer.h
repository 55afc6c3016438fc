// Prints records in the forms that the verbs share. Thread: main's.
#pragma once

#include <string>

#include "gateway/cli/cli.h"
#include "storage/record.h"

namespace wayside {

// As text, each line with its end: the heading that the format has, and a record.
[[nodiscard]] std::string record_heading(Format format);
void append_record(std::string& out, Format format, const std::string& topic,
                   std::int32_t partition, const StoredRecord& record);

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
