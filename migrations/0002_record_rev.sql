-- sluice: ours
-- The rev at which a record was written: an event with an older one changes nothing. Null is older
-- than any. Alone in its file, so that its exclusive lock on a large table lasts milliseconds.
alter table record add column if not exists rev varchar;
