-- sluice: concurrently
-- A post that arrives after its replies walks over them, a page at a time.
create index concurrently sluice_post_answers_idx
  on :schema.post ("replyParent", uri) where "replyParent" is not null;
