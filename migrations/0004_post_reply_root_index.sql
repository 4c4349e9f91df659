-- sluice: concurrently
-- A gate that arrives after replies finds them by their root.
create index concurrently sluice_post_reply_root_idx
  on :schema.post ("replyRoot") where "replyRoot" is not null;
