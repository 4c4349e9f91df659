-- sluice: concurrently
-- A gate walks over the replies of its thread, a page at a time.
create index concurrently sluice_post_thread_idx
  on :schema.post ("replyRoot", uri) where "replyRoot" is not null;
