#include "devices/device_time.h"

#include <gtest/gtest.h>

namespace wayside {
namespace {

constexpr std::int64_t kNoon = 1'795'608'000'000;  // 2026-11-25T12:00:00Z

std::optional<std::int64_t> read(const char* text, TimeUnit unit = TimeUnit::automatic,
                                 const TimeZone* zone = nullptr) {
  const auto ms = read_device_time({JsonScalar::Kind::text, text}, unit, zone);
  return ms ? std::optional(*ms) : std::nullopt;
}

TEST(DeviceTime, AsFirmwareWritesIt) {
  const struct {
    const char* text;
    std::int64_t ms;
  } kRead[] = {
      {"2026-11-25T12:00:00Z", kNoon},
      {"2026-11-25t12:00:00z", kNoon},
      {"2026-11-25 12:00:00Z", kNoon},
      {"2026-11-25  12:00:00 Z", kNoon},
      {" 2026-11-25T12:00:00Z\r\n", kNoon},
      {"2026-11-25T12:00Z", kNoon},
      {"2026-11-25T12:00:00.25Z", kNoon + 250},
      {"2026-11-25T12:00:00,250Z", kNoon + 250},
      {"2026-11-25T12:00:00.250999Z", kNoon + 250},
      {"2026-11-25T12:00:00.250999999Z", kNoon + 250},
      {"2026-11-25T13:00:00+01:00", kNoon},
      {"2026-11-25T13:00:00+0100", kNoon},
      {"2026-11-25T13:00:00+01", kNoon},
      {"2026-11-25 13:00:00 +0100", kNoon},
      {"2026-11-25T06:30:00-0530", kNoon},
      {"2026-11-25T17:45:00.5+05:45", kNoon + 500},
      {"2026-11-25T12:00:00-00:00", kNoon},
      {"2026-11-25T13:00:00+01:00[Europe/Berlin]", kNoon},
      {"2026-11-25 12:00:00 UTC", kNoon},
      {"2026-11-25 12:00:00 gmt", kNoon},
      {"2026/11/25 12:00:00Z", kNoon},
      {"2026.11.25 12:00:00Z", kNoon},
      {"25.11.2026 12:00:00Z", kNoon},
      {"25.11.2026 12:00Z", kNoon},
      {"20261125T120000Z", kNoon},
      {"20261125T1200Z", kNoon},
      {"20261125120000Z", kNoon},
      {"2026-11-25T120000Z", kNoon},
      {"1795608000", kNoon},
      {"1795608000.25", kNoon + 250},
      {"1795608000,25", kNoon + 250},
      {" 1795608000 ", kNoon},
      {"1.795608e9", kNoon},
      {"1795608000250", kNoon + 250},
      {"1795608000250999", kNoon + 250 + 1},  // rounded
      {"1795608000250000000", kNoon + 250},
      {"0", 0},
      {"-1", -1000},
      {"2016-12-31T23:59:60Z", 1'483'228'800'000},  // a leap second
      {"2028-02-29T00:00:00Z", 1'835'395'200'000},
  };
  for (const auto& row : kRead) EXPECT_EQ(read(row.text), row.ms) << row.text;
}

TEST(DeviceTime, WhatCouldMeanTwoTimesOrNoneIsNotRead) {
  for (const char* text :
       {"", " ", "yesterday", "2026-11-25", "12:00:00", "2026-11-25T12:00:00", "2026-11-25 12:00",
        "20261125120000", "25.11.2026 12:00", "11/25/2026 12:00:00Z", "25-11-2026 12:00:00Z",
        "2026-11-25T25:00:00Z", "2026-11-25T12:60:00Z", "2026-11-25T12:00:61Z",
        "2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-00-10T00:00:00Z",
        "2026-11-25T12:00:00.Z", "2026-11-25T12:00:00+1:00", "2026-11-25T12:00:00+01:0",
        "2026-11-25T12:00:00+01:60", "2026-11-25T12:00:00+24:00", "2026-11-25T12:00:00 CET",
        "2026-11-25T12:00:00Zx", "2026-11-25T12:00:00[Europe/Berlin]", "2026-11/25T12:00:00Z",
        "2026-11-25T12:00:00 PM", "2026-11-25T1:00:00Z", "nan", "inf", "1e300", "0x10", "1,2,3",
        "12 34", "\xFF\xFE", "2026-11-25T12:00:00\xE2\x88\x92"
                             "01:00"}) {
    EXPECT_EQ(read(text), std::nullopt) << text;
  }
  using Kind = JsonScalar::Kind;
  for (const Kind kind : {Kind::boolean, Kind::structure}) {
    EXPECT_FALSE(read_device_time({kind, "true"}, TimeUnit::automatic, nullptr));
  }
}

TEST(DeviceTime, TheReasonNamesWhatToDo) {
  const auto why = [](const char* text) {
    return read_device_time({JsonScalar::Kind::text, text}, TimeUnit::automatic, nullptr)
        .error()
        .what;
  };
  EXPECT_EQ(why("2026-11-25T12:00:00"),
            "'2026-11-25T12:00:00' is a local time, and the route has no time_zone");
  EXPECT_EQ(why("2026-11-25"), "'2026-11-25' is a date without a time of day");
  EXPECT_EQ(why("yester\nday"), "'yester\\x0aday' is no time that can be read");
  EXPECT_LT(why(std::string(5000, 'x').c_str()).size(), 200U);
}

TEST(DeviceTime, TheUnitIsAsTheRouteSays) {
  EXPECT_EQ(read("1795339391", TimeUnit::s), 1'795'339'391'000);
  EXPECT_EQ(read("1795339391", TimeUnit::ms), 1'795'339'391);
  EXPECT_EQ(read("1795339391000000", TimeUnit::us), 1'795'339'391'000);
  EXPECT_EQ(read("1795339391000000000", TimeUnit::ns), 1'795'339'391'000);
  EXPECT_EQ(read("1795339391000000", TimeUnit::s), std::nullopt);
  EXPECT_EQ(read("2026-11-25T12:00:00Z", TimeUnit::ns), kNoon);
  EXPECT_EQ(read("20261125120000", TimeUnit::ms), 20'261'125'120'000);
}

TEST(TimeZone, LocalTimesWithTheirGapsAndOverlaps) {
  const struct {
    const char* zone;
    const char* local;
    const char* utc;
  } kRead[] = {
      {"Europe/Berlin", "2026-11-25T13:00:00", "2026-11-25T12:00:00Z"},
      {"Europe/Berlin", "2026-07-01 14:00", "2026-07-01T12:00:00Z"},
      {"Europe/Berlin", "25.11.2026 13:00:00,5", "2026-11-25T12:00:00.5Z"},
      {"Europe/Berlin", "20261125130000", "2026-11-25T12:00:00Z"},
      {"Europe/Berlin", "2026-11-25T13:00:00Z", "2026-11-25T13:00:00Z"},
      // The clocks skip 02:00 to 03:00 on 2026-03-29 ...
      {"Europe/Berlin", "2026-03-29T01:59:59", "2026-03-29T00:59:59Z"},
      {"Europe/Berlin", "2026-03-29T02:30:00", "2026-03-29T01:30:00Z"},
      {"Europe/Berlin", "2026-03-29T03:00:00", "2026-03-29T01:00:00Z"},
      // ... and show 02:00 to 03:00 twice on 2026-10-25.
      {"Europe/Berlin", "2026-10-25T01:59:59", "2026-10-24T23:59:59Z"},
      {"Europe/Berlin", "2026-10-25T02:30:00", "2026-10-25T00:30:00Z"},
      {"Europe/Berlin", "2026-10-25T03:00:00", "2026-10-25T02:00:00Z"},
      {"America/New_York", "2026-11-25T07:00:00", "2026-11-25T12:00:00Z"},
      {"Australia/Sydney", "2026-01-01T11:00:00", "2026-01-01T00:00:00Z"},
      {"Australia/Lord_Howe", "2026-10-04T02:15:00", "2026-10-03T15:45:00Z"},  // half an hour
      {"Asia/Kolkata", "2026-11-25T17:30:00", "2026-11-25T12:00:00Z"},
      {"+01:00", "2026-07-01T13:00:00", "2026-07-01T12:00:00Z"},
      {"-0330", "2026-07-01T08:30:00", "2026-07-01T12:00:00Z"},
      {"UTC", "2026-07-01T12:00:00", "2026-07-01T12:00:00Z"},
      {"Z", "2026-07-01T12:00:00", "2026-07-01T12:00:00Z"},
  };
  for (const auto& row : kRead) {
    const auto zone = TimeZone::parse(row.zone);
    ASSERT_TRUE(zone) << zone.error().text();
    EXPECT_EQ(read(row.local, TimeUnit::automatic, &*zone), read(row.utc))
        << row.zone << " " << row.local;
  }
  for (const char* bad :
       {"", "Europe/Berlim", "berlin", "+25:00", "+1", "../../etc/passwd", "CET+1x"}) {
    EXPECT_FALSE(TimeZone::parse(bad)) << bad;
  }
}

}  // namespace
}  // namespace wayside
