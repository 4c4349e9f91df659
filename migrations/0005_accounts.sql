-- sluice: ours
-- How the repos of accounts end, and how far a long repair has come.

-- A repo is done at "snapshotRev", when it was read whole, or has ended with a status.
alter table repo_sync
  -- Why the repo is not to be had, as its newest account event says; null while it is.
  add column if not exists status varchar,
  add column if not exists "statusAt" varchar,
  -- The account was deleted and its records removed: an event up to this rev changes nothing.
  add column if not exists "purgedRev" varchar;

-- Accounts said to be deleted: `asked` until their PDS confirms it, then `purging` until all is gone.
create table account_purge (
  did varchar primary key,
  state varchar not null,
  -- The time of the account event.
  since varchar not null,
  attempts integer not null default 0,
  "notBefore" varchar not null
);
create index account_purge_not_before_idx on account_purge ("notBefore");

-- Where `sluice doctor` continues after an interruption.
create table doctor_progress (
  name varchar primary key,
  cursor varchar not null,
  found bigint not null,
  "updatedAt" varchar not null
);
