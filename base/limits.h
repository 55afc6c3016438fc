// Every bound that is not a key of the configuration, with its reason. (Those that are keys are
// in config/keys.cc with their ranges.)
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/limits_site.h"
#include "base/limits_strangers.h"  // the bounds on what anybody can make the gateway hold

namespace wayside::limits {

// --- devices' side -------------------------------------------------------------------------
// A connection that has not sent its CONNECT by then is closed: it holds a descriptor.
inline constexpr std::int64_t kConnectTimeoutMs = 10'000;
// A client that does not read: no byte of our output taken for so long, and it is closed.
inline constexpr std::int64_t kWriteStallMs = 60'000;
// Output (acknowledgements) held for one connection before its input is no longer read.
inline constexpr std::size_t kOutputBytesMax = 256 * 1024;
// Bytes of readings of one connection that wait for their commit before it is no longer read.
inline constexpr std::size_t kConnectionPendingBytesMax = 2 * 1024 * 1024;
// Bytes of readings of all connections that wait for their commit before none is read; above half
// of it only connections with little waiting are read, so that a flood does not stop the others.
inline constexpr std::size_t kPendingBytesMax = 16 * 1024 * 1024;
// One read from a socket; what is read in one go is one batch of the writer.
inline constexpr std::size_t kReadBytes = 64 * 1024;
// Topics whose route a connection remembers, by number and by bytes; beyond, they are looked up
// again.
inline constexpr std::size_t kTopicCacheMax = 64;
inline constexpr std::size_t kTopicCacheBytesMax = 32 * 1024;
// MQTT 5 topic aliases that mqtt.topic_alias_maximum may allow: each is a topic name in memory.
inline constexpr std::uint16_t kTopicAliasMax = 32;
// Of a reading above mqtt.max_packet so much is kept, to tell what it was; the rest is skipped.
inline constexpr std::size_t kOversizedHeadBytes = 4096;
// Record headers made of a reading's MQTT 5 properties: what is beyond is dropped, and said.
inline constexpr std::size_t kHeaderBytesMax = 16 * 1024;
inline constexpr std::size_t kHeadersMax = 64;
// ... and of all records together that one reading is split into, each of which has them.
inline constexpr std::size_t kSplitHeaderBytesMax = 1024 * 1024;
// A peer that is silent for so long is asked by TCP whether it is there, so often, at this
// interval: one that has vanished is known after two minutes, whatever its MQTT keep-alive is.
inline constexpr int kTcpKeepIdleS = 60;
inline constexpr int kTcpKeepProbes = 4;
inline constexpr int kTcpKeepIntervalS = 15;
// So many bytes of a packet that is not complete show that its sender is alive, as a packet does:
// on a slow link a large reading takes longer than a keep-alive.
inline constexpr std::size_t kAliveBytes = 1000;
// Filters of a refused SUBSCRIBE that are named to the technician.
inline constexpr std::size_t kNamedFiltersMax = 3;
inline constexpr std::size_t kNamedFilterBytes = 100;
// A device's MQTT topic is stored with what it sends, and remembered.
inline constexpr std::size_t kTopicBytesMax = 1024;
// A CONNECT, from a client that nobody knows yet: its will is the largest part.
inline constexpr std::size_t kConnectBytesMax = 160 * 1024;
// Levels of a device's topic: a bound for the matcher, far above any real topic.
inline constexpr std::size_t kTopicLevelsMax = 64;
// Clients whose last trouble is remembered for 'wayside devices'.
inline constexpr std::size_t kTroublesMax = 1000;
// Who answers an acknowledgement later than this did not wait for it.
inline constexpr std::int64_t kRoundTripMostMs = 100;
// Wills that wait for their delay interval.
inline constexpr std::size_t kDelayedWillsMax = 1000;

// --- log -----------------------------------------------------------------------------------
// SQLite's views stop at 500 arms; the rest is a margin.
inline constexpr std::int64_t kSegmentsPerChainMax = 400;
// The schema is parsed by every connection.
inline constexpr std::int64_t kSegmentsMax = 1000;
inline constexpr std::int32_t kPartitionsMax = 1000;
// Ids of partitions that were ever made; a larger one in a file is garbage.
inline constexpr std::int64_t kIdsMost = 1'000'000;
inline constexpr std::size_t kTopicsMax = 500;
inline constexpr std::size_t kTopicNameBytesMax = 249;  // as in Kafka
// Learnt JSON columns of a topic's view.
inline constexpr std::size_t kLearntColumnsMax = 32;
// They are learnt anew when a topic has grown by so many records, or fourfold.
inline constexpr std::int64_t kLearnAgainRecords = 10'000;
// WAL pages before SQLite checkpoints (4 MB): larger does not write less.
inline constexpr int kWalAutocheckpointPages = 1000;
// Above the autocheckpoint, so that the file is kept; below, growing it again costs journal writes.
inline constexpr std::int64_t kJournalSizeLimitBytes = 16 * 1024 * 1024;
// Allocated beside the database and given up when the disk is full: at zero free bytes SQLite can
// neither drop a table nor checkpoint (a trial needed at least 2 MB).
inline constexpr std::int64_t kBallastBytes = 8 * 1024 * 1024;
// The sidecar is written before so many records, or so much time, have passed since the last one
// ...
inline constexpr std::int64_t kSidecarRecords = 100'000;
inline constexpr std::int64_t kSidecarMs = 60'000;
// ... so a log that was lost had given no offset beyond the sidecar's by this much.
inline constexpr std::int64_t kResumeGap = 200'000;
// A closed segment of more records gets no index: building it would hold up the writer. They are
// that large in a log of more than 40 million records.
inline constexpr std::int64_t kIndexedRowsMost = 450'000;
// Segments of one chain that salvaged records are sorted into.
inline constexpr std::int64_t kSalvageSegmentsMax = 200;
// Ops of one transaction: bounds the time the writer is away.
inline constexpr std::size_t kOpsPerCommitMax = 20'000;
// A wall clock that jumps by more than this against the steady one stops retention by time ...
inline constexpr std::int64_t kClockJumpMs = 5 * 60'000;
// ... until it has run steadily for so long.
inline constexpr std::int64_t kClockJumpHoldMs = 10 * 60'000;
// A clock that was believed before it jumped has one of its two times wrong: for as long as it
// jumped, up to this.
inline constexpr std::int64_t kClockDoubtMostMs = 86'400'000;

// --- readings ------------------------------------------------------------------------------
// A device's own time is believed from 2010 on ...
inline constexpr std::int64_t kPlausibleFromMs = 1'262'304'000'000;
// ... and up to a day ahead of a trusted clock; beside one that is not, before 2100.
inline constexpr std::int64_t kPlausibleBeforeMs = 4'102'444'800'000;
inline constexpr std::int64_t kPlausibleAheadMs = 86'400'000;
// Keys choose partitions and become columns.
inline constexpr std::size_t kKeyBytesMax = 4096;

// Levels of a payload that is looked into as a tree, and of requests: they are walked recursively.
inline constexpr std::size_t kJsonDepthMax = 64;
// Records that one message may hold (split): they are one transaction.
inline constexpr std::size_t kSplitRecordsMax = 5000;

// Subscriptions to other brokers: each commits one reading at a time.
inline constexpr std::size_t kSubscriptionsMax = 8;

// --- bridge --------------------------------------------------------------------------------
inline constexpr std::size_t kBridgesMax = 16;
// Records looked through for one to try when others are refused, before the next try is due: 2 s of
// a small board's time.
inline constexpr std::int64_t kProbeScanRecords = 200'000;
// Keys that are told apart meanwhile: beyond, the search begins anew.
inline constexpr std::size_t kProbeOrdersMax = 100'000;
// Records that were tried and refused, or may be tried, that are remembered.
inline constexpr std::size_t kProbesRemembered = 1000;
// Records tried at once when the suspicion is new, and at each later try of what is suspected: a
// metered link.
inline constexpr int kProbesAtFirst = 16;
inline constexpr int kProbesPerTry = 2;
// What is read of an upstream's answer.
inline constexpr std::size_t kReplyBytesMax = 64 * 1024;

}  // namespace wayside::limits
