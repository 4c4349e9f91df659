-- sluice: ours
-- How far a walk over many rows has come, and whom it may tell.
alter table reconcile
  -- Where the walk continues; null at its beginning.
  add column if not exists "after" varchar,
  -- Down to which level of replies new ancestors are told.
  add column if not exists depth integer not null default 0,
  -- Nobody is told: the event came from a backfill.
  add column if not exists quiet boolean not null default false;
-- 0008 does what it did, and in order.
drop index if exists sluice_post_reply_root_idx;
