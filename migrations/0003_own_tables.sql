-- sluice: ours
-- What the indexer needs to remember beside the tables of the AppView.

-- Records that were deleted, so that an older event does not bring one back.
create table record_tombstone (
  uri varchar primary key,
  did varchar not null,
  rev varchar not null,
  "deletedAt" varchar not null
);
-- Once a snapshot covers the repo its tombstones go; the others go by age.
create index record_tombstone_did_idx on record_tombstone (did, rev);
create index record_tombstone_deleted_at_idx on record_tombstone ("deletedAt");

-- One row a repo: the row that a batch locks, the highest rev applied, and its snapshots.
create table repo_sync (
  did varchar primary key,
  rev varchar,
  -- The rev of the newest snapshot, whatever its scope.
  "snapshotRev" varchar,
  -- A JSON object: for each pattern of collections, the rev at which it was last covered whole. An
  -- event of these collections with an older rev changes nothing.
  "snapshotScope" jsonb,
  "snapshotAt" varchar
);

-- Keys whose derived rows are to be set from what is there now.
create table reconcile (
  kind varchar,
  key varchar,
  primary key (kind, key)
);

-- The newest account and identity event of each account: last writer by (time, host, seq).
create table account_event (
  did varchar,
  type varchar,
  "time" varchar not null,
  host varchar not null default '',
  seq bigint,
  active boolean,
  status varchar,
  primary key (did, type)
);

-- From where an upstream is to be followed when Redis is lost whole.
create table position (
  host varchar,
  stream varchar,
  "group" varchar,
  seq bigint not null,
  "entryId" varchar not null,
  "updatedAt" varchar not null,
  primary key (host, stream, "group")
);
