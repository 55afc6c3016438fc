#include "storage/sqlite/schema.h"

#include <array>

#include "base/text.h"

namespace wayside {
namespace {

// A version further ahead than this is no newer program's: it is damage.
constexpr std::int64_t kPlausibleVersions = 1000;

// Times are int64 milliseconds since 1970 UTC. `seq` counts records in arrival order over the
// whole log. Names of tables that are not a person's begin with _ws_.
constexpr const char* kSchemaV1 = R"sql(
CREATE TABLE _ws_meta(
  name TEXT PRIMARY KEY,
  value NOT NULL
) WITHOUT ROWID;

CREATE TABLE _ws_epochs(                -- one row per start of the gateway
  epoch INTEGER PRIMARY KEY,
  started_ms INTEGER NOT NULL,
  clock_trusted INTEGER NOT NULL,
  next_seq INTEGER NOT NULL             -- its first record has this seq or a later one
);

CREATE TABLE _ws_chains(                -- topics of one retention share a chain of segments
  chain INTEGER PRIMARY KEY AUTOINCREMENT,
  retention_ms INTEGER NOT NULL,        -- -1: for ever; the longest of its topics
  retention_bytes INTEGER NOT NULL,     -- -1: without bound; else the chain has one topic
  segment_rows INTEGER NOT NULL
);

CREATE TABLE _ws_topics(
  topic_id INTEGER PRIMARY KEY AUTOINCREMENT,   -- never used again
  uuid TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL UNIQUE COLLATE NOCASE,
  chain INTEGER NOT NULL REFERENCES _ws_chains,
  retention_ms INTEGER NOT NULL,
  retention_bytes INTEGER NOT NULL,
  columns TEXT,                         -- JSON array declared in the configuration; NULL: learnt
  learnt_columns TEXT NOT NULL DEFAULT '[]',
  created_ms INTEGER NOT NULL
);

CREATE TABLE _ws_partitions(
  tp INTEGER PRIMARY KEY AUTOINCREMENT,         -- never used again
  topic_id INTEGER NOT NULL REFERENCES _ws_topics,
  partition INTEGER NOT NULL,
  log_start INTEGER NOT NULL DEFAULT 0, -- log start offset: moved by retention only
  UNIQUE(topic_id, partition)
);

CREATE TABLE _ws_segments(
  chain INTEGER NOT NULL,
  segment INTEGER NOT NULL,
  format INTEGER NOT NULL,
  epoch INTEGER NOT NULL,               -- of its opening
  opened_ms INTEGER NOT NULL,
  clock_trusted INTEGER NOT NULL,       -- the same for all its records
  first_seq INTEGER NOT NULL,           -- its records have this seq or a later one
  last_seq INTEGER,                     -- NULL: open. The rest is filled in when it closes
  rows INTEGER,
  bytes INTEGER,                        -- keys, values and headers
  min_ts INTEGER,
  max_ts INTEGER,
  min_append_ms INTEGER,
  max_append_ms INTEGER,
  indexed INTEGER NOT NULL DEFAULT 0,   -- has its index (tp, offset)
  PRIMARY KEY(chain, segment)
) WITHOUT ROWID;

CREATE TABLE _ws_segment_starts(        -- each partition's next offset when it was opened
  chain INTEGER NOT NULL,
  segment INTEGER NOT NULL,
  tp INTEGER NOT NULL,
  next_offset INTEGER NOT NULL,
  PRIMARY KEY(chain, segment, tp)
) WITHOUT ROWID;

CREATE TABLE _ws_sources(               -- who sent a record, by which MQTT topic
  src INTEGER PRIMARY KEY,
  client_id TEXT NOT NULL,
  mqtt_topic TEXT NOT NULL,
  UNIQUE(client_id, mqtt_topic)
);

CREATE TABLE _ws_consumer_offsets(      -- __consumer_offsets: the latest per group and partition
  "offset" INTEGER PRIMARY KEY AUTOINCREMENT,   -- +1 per commit
  group_id TEXT NOT NULL,
  tp INTEGER NOT NULL REFERENCES _ws_partitions,
  committed_offset INTEGER NOT NULL,    -- the next one to read
  metadata TEXT NOT NULL DEFAULT '',
  commit_ms INTEGER NOT NULL,
  UNIQUE(group_id, tp)
);

CREATE TABLE _ws_sessions(              -- MQTT sessions that outlive their connection
  session_id INTEGER PRIMARY KEY AUTOINCREMENT,
  client_id TEXT NOT NULL UNIQUE,
  expiry_s INTEGER NOT NULL,            -- 4294967295: never
  disconnected_ms INTEGER               -- NULL: connected
);

CREATE TABLE _ws_qos2(                  -- QoS 2 readings stored, their PUBREL not seen yet
  session_id INTEGER NOT NULL,
  packet_id INTEGER NOT NULL,
  PRIMARY KEY(session_id, packet_id)
) WITHOUT ROWID;

CREATE TABLE _ws_sealed(                -- a bridge's batch, perhaps sent, and not settled
  bridge TEXT PRIMARY KEY,
  chain INTEGER NOT NULL,
  first_seq INTEGER NOT NULL,
  last_seq INTEGER NOT NULL,
  rows INTEGER NOT NULL,
  crc INTEGER NOT NULL,                 -- of the body as sent, before compression
  tps TEXT NOT NULL,                    -- JSON array
  sealed_ms INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE _ws_counters(              -- what was refused or set aside, by reason
  name TEXT PRIMARY KEY,
  value INTEGER NOT NULL
) WITHOUT ROWID;

CREATE VIEW "__consumer_offsets" AS
  SELECT o."offset" AS "offset", o.group_id AS group_id, t.name AS topic, p.partition AS partition,
         o.committed_offset AS committed_offset, o.metadata AS metadata, o.commit_ms AS commit_ms
  FROM _ws_consumer_offsets o JOIN _ws_partitions p USING (tp) JOIN _ws_topics t USING (topic_id);
)sql";

// Version 2: quarantined readings can be settled; a deleted topic leaves the rows of its partitions
// in _ws_partitions, so that the ledger adds up and the numbers of partitions stay known.
constexpr const char* kSchemaV2 = R"sql(
CREATE TABLE _ws_quarantine_settled(    -- quarantined readings that have been dealt with
  "offset" INTEGER PRIMARY KEY,         -- in the topic 'quarantine'
  outcome TEXT NOT NULL,                -- 'retried', 'dropped'
  settled_ms INTEGER NOT NULL
);

-- From when on a commit grows old, by a trusted clock; NULL: not known yet.
ALTER TABLE _ws_consumer_offsets ADD COLUMN age_from_ms INTEGER;
)sql";

// Version 3: offsets that no record has are named, damaged files that were set aside are known, and
// a WAL can be told from one that belongs to another file.
constexpr const char* kSchemaV3 = R"sql(
CREATE TABLE _ws_lost(                  -- offsets without a record, from one to before another
  tp INTEGER NOT NULL,
  from_offset INTEGER NOT NULL,
  to_offset INTEGER NOT NULL,
  kind TEXT NOT NULL,                   -- 'lost', 'skipped' or 'salvaging'
  why TEXT NOT NULL,
  found_ms INTEGER NOT NULL,
  told INTEGER NOT NULL DEFAULT 0,      -- there is a record of it in the topic gateway.events
  PRIMARY KEY(tp, from_offset)
) WITHOUT ROWID;

CREATE TABLE _ws_damaged(               -- files that were set aside
  file TEXT PRIMARY KEY,                -- its name in data_dir
  why TEXT NOT NULL,
  set_aside_ms INTEGER NOT NULL,
  before_seq INTEGER NOT NULL,          -- its records have lower ones
  before_source INTEGER NOT NULL,       -- its records' sources that are known are lower
  state TEXT NOT NULL,                  -- 'waiting', 'salvaged', 'no room', 'failed'
  records INTEGER NOT NULL DEFAULT 0,   -- that were salvaged from it
  finished_ms INTEGER
) WITHOUT ROWID;

-- Which goes first when there is no room; groups that must have read a record before it goes.
ALTER TABLE _ws_chains ADD COLUMN priority INTEGER NOT NULL DEFAULT 1;
ALTER TABLE _ws_topics ADD COLUMN priority INTEGER NOT NULL DEFAULT 1;
ALTER TABLE _ws_topics ADD COLUMN keep_for TEXT NOT NULL DEFAULT '[]';

-- First salt of the WAL that this start began with; NULL: not known, or stopped in order.
ALTER TABLE _ws_epochs ADD COLUMN wal_salt INTEGER;
)sql";

// Version 4: a sealed batch keeps its idempotency key, records can be sent once more, sources that
// no record names any more can be forgotten, a retained value that was stored already is known,
// and a log that was copied keeps the identity that each of its records was stored under.
constexpr const char* kSchemaV4 = R"sql(
-- As it was made when the batch was sealed. Version 3 made it of ids and range, each time anew.
ALTER TABLE _ws_sealed ADD COLUMN idempotency_key TEXT;
UPDATE _ws_sealed SET idempotency_key =
  (SELECT value FROM _ws_meta WHERE name='gateway_id') || '.' ||
  (SELECT value FROM _ws_meta WHERE name='log_uuid') || '.' || bridge || '.' ||
  first_seq || '-' || last_seq || '-' || rows;

CREATE TABLE _ws_resend(                -- what a bridge sends once more, before all else
  bridge TEXT NOT NULL,
  tp INTEGER NOT NULL,
  from_offset INTEGER NOT NULL,
  to_offset INTEGER NOT NULL,           -- before this one
  PRIMARY KEY(bridge, tp, from_offset)
) WITHOUT ROWID;

CREATE TABLE _ws_logs(                  -- the log's identities: a copy goes on under a new one
  from_seq INTEGER PRIMARY KEY,         -- its records have this seq or a later one
  log_uuid TEXT NOT NULL,
  since_ms INTEGER NOT NULL,
  why TEXT NOT NULL,
  told INTEGER NOT NULL DEFAULT 0       -- there is a record of it in the topic gateway.events
);
INSERT INTO _ws_logs SELECT 0, value, 0, '', 1 FROM _ws_meta WHERE name='log_uuid';

-- No record with this seq or a later one names it; NULL: that is not known.
ALTER TABLE _ws_sources ADD COLUMN unused_from_seq INTEGER;
-- CRC-32C of the last retained value << 32 | of the last published one; NULL: there is none.
ALTER TABLE _ws_sources ADD COLUMN retained_mark INTEGER;
)sql";

Status create(Database& db, const Clock& clock) {
  WS_TRY(db.exec("BEGIN IMMEDIATE"));
  WS_TRY(db.exec(kSchemaV1));
  WS_TRY(db.exec(kSchemaV2));
  WS_TRY(db.exec(kSchemaV3));
  WS_TRY(db.exec(kSchemaV4));
  WS_TRY(db.exec(cat("INSERT INTO _ws_meta VALUES('gateway_id', ", quoted_text(random_uuid()),
                     "), ('log_uuid', ", quoted_text(random_uuid()), "), ('created_ms', ",
                     clock.wall_ms(), ")")));
  WS_TRY(
      db.exec("INSERT INTO _ws_logs SELECT 0, value, 0, '', 1 FROM _ws_meta"
              " WHERE name='log_uuid'"));
  WS_TRY(db.exec(cat("PRAGMA application_id=", kApplicationId)));
  WS_TRY(db.exec(cat("PRAGMA user_version=", kSchemaVersion)));
  return db.exec("COMMIT");
}

// One step a version, each in a transaction of its own: cut off, it is done again.
Status migrate(Database& db) {
  constexpr std::array kSteps = {kSchemaV2, kSchemaV3, kSchemaV4};
  WS_ASSIGN(const std::int64_t version, db.number("PRAGMA user_version"));
  for (std::int64_t to = version + 1; to <= kSchemaVersion; ++to) {
    WS_TRY(db.exec("BEGIN IMMEDIATE"));
    if (auto done = db.exec(kSteps.at(static_cast<std::size_t>(to - 2))); !done) {
      return fail(done.error().code,
                  cat("the log could not be brought to format ", to,
                      done.error().code == ErrorCode::no_space
                          ? std::string(": the disk is full; free some space")
                          : ": " + done.error().what));
    }
    WS_TRY(db.exec(cat("PRAGMA user_version=", to)));
    WS_TRY(db.exec("COMMIT"));
  }
  return {};
}

}  // namespace

Status check_schema(Database& db) {
  WS_ASSIGN(const std::int64_t application, db.number("PRAGMA application_id"));
  WS_ASSIGN(const std::int64_t version, db.number("PRAGMA user_version"));
  if (application != kApplicationId) {
    return fail(ErrorCode::refused, "wayside.db is not a database of Wayside",
                "check data_dir; this file was made by another program and is left untouched");
  }
  if (version < 1 || version > kSchemaVersion + kPlausibleVersions) {
    return fail(ErrorCode::corrupt, cat("wayside.db says that it has format ", version));
  }
  if (version > kSchemaVersion) {
    return fail(
        ErrorCode::too_new,
        cat("wayside.db has format ", version, "; this program knows up to ", kSchemaVersion),
        "install the newer wayside again; the file is left untouched");
  }
  return {};
}

Status ensure_schema(Database& db, const Clock& clock) {
  WS_ASSIGN(const std::int64_t tables, db.number("SELECT count(*) FROM sqlite_schema"));
  WS_ASSIGN(const std::int64_t application, db.number("PRAGMA application_id"));
  if (tables == 0 && application == 0) return create(db, clock);
  WS_TRY(check_schema(db));
  return migrate(db);
}

Result<std::optional<std::string>> read_fact(Database& db, std::string_view name) {
  WS_ASSIGN(Statement s, db.prepare("SELECT value FROM _ws_meta WHERE name=?1"));
  WS_ASSIGN(const bool row, s.bind_text(1, name).step());
  if (!row) return std::optional<std::string>{};
  return std::optional(std::string(s.bytes(0)));
}

Result<Identity> read_identity(Database& db) {
  Identity identity;
  WS_ASSIGN(Statement s, db.prepare("SELECT name, value FROM _ws_meta"));
  for (;;) {
    WS_ASSIGN(const bool row, s.step());
    if (!row) break;
    if (s.bytes(0) == "gateway_id") identity.gateway_id = s.bytes(1);
    if (s.bytes(0) == "log_uuid") identity.log_uuid = s.bytes(1);
  }
  WS_ASSIGN(identity.epoch, db.number("SELECT max(epoch) FROM _ws_epochs"));
  return identity;
}

std::string segment_table(ChainId chain, std::int64_t segment) {
  return cat("_ws_seg_", chain.value, "_", segment);
}

std::string create_segment_sql(ChainId chain, std::int64_t segment) {
  return cat("CREATE TABLE ", segment_table(chain, segment),
             "(seq INTEGER PRIMARY KEY, tp INTEGER NOT NULL, \"offset\" INTEGER NOT NULL, "
             "ts INTEGER NOT NULL, append_ms INTEGER NOT NULL, key, value, headers BLOB, "
             "attrs INTEGER NOT NULL, src INTEGER, crc INTEGER NOT NULL)");
}

std::string chain_view(ChainId chain) {
  return cat("_ws_chain_", chain.value);
}

Result<Statement> prepare_insert(Database& db, ChainId chain, std::int64_t segment,
                                 bool or_ignore) {
  return db.prepare(
      cat(or_ignore ? "INSERT OR IGNORE INTO " : "INSERT INTO ", segment_table(chain, segment),
          " VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11)"),
      true);
}

void bind_record(Statement& insert, Seq seq, TpId tp, Offset offset, std::int64_t append_ms,
                 const Record& record, std::int64_t source, std::uint32_t crc) {
  insert.bind(1, seq.value).bind(2, tp.value).bind(3, offset.value).bind(4, record.timestamp_ms);
  insert.bind(5, append_ms).bind_bytes(6, record.key).bind_bytes(7, record.value);
  if (record.headers.empty()) {
    insert.bind_null(8);
  } else {
    insert.bind_blob(8, record.headers);
  }
  insert.bind(9, record.attributes);
  if (source > 0) {
    insert.bind(10, source);
  } else {
    insert.bind_null(10);
  }
  insert.bind(11, crc);
}

}  // namespace wayside
