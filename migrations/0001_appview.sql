-- sluice: appview
-- The schema that the AppView of @atproto/bsky 0.0.280 reads, for a database of our own. Names of
-- constraints and indexes are part of it: later migrations of the AppView look for them.
-- Unqualified names belong to the search path: the schema first, then public.

create extension if not exists pg_trgm schema public;

-- Records, whatever their collection.

create table record (
  uri varchar primary key,
  cid varchar not null,
  did varchar not null,
  json text not null,
  "indexedAt" varchar not null,
  "takedownRef" varchar,
  tags jsonb
);
create index record_did_idx on record (did);

create table duplicate_record (
  uri varchar primary key,
  cid varchar not null,
  "duplicateOf" varchar not null,
  "indexedAt" varchar not null
);
create index duplicate_record_duplicate_of_idx on duplicate_record ("duplicateOf");

-- Posts and what hangs on them.

create table post (
  uri varchar primary key,
  cid varchar not null,
  creator varchar not null,
  text varchar not null,
  langs jsonb,
  tags jsonb,
  "replyRoot" varchar,
  "replyRootCid" varchar,
  "replyParent" varchar,
  "replyParentCid" varchar,
  "invalidReplyRoot" boolean,
  "violatesThreadGate" boolean,
  "violatesEmbeddingRules" boolean,
  "hasThreadGate" boolean,
  "hasPostGate" boolean,
  "createdAt" varchar not null,
  "indexedAt" varchar not null,
  "sortAt" varchar generated always as (least("createdAt", "indexedAt")) stored not null
);
create index post_order_by_idx on post ("sortAt", cid);
create index post_creator_cursor_idx on post (creator, "sortAt", cid);
create index post_replyparent_idx on post ("replyParent") include (uri);

create table post_embed_image (
  "postUri" varchar,
  "position" varchar,
  "imageCid" varchar not null,
  alt varchar not null,
  primary key ("postUri", "position")
);

create table post_embed_gallery_image (
  "postUri" varchar,
  "position" varchar,
  "imageCid" varchar not null,
  alt varchar not null,
  primary key ("postUri", "position")
);

create table post_embed_video (
  "postUri" varchar primary key,
  "videoCid" varchar not null,
  alt varchar
);

create table post_embed_external (
  "postUri" varchar primary key,
  uri varchar not null,
  title varchar not null,
  description varchar not null,
  "thumbCid" varchar
);

create table post_embed_record (
  "postUri" varchar,
  "embedUri" varchar,
  "embedCid" varchar not null,
  primary key ("postUri", "embedUri")
);

create table quote (
  uri varchar primary key,
  cid varchar not null,
  subject varchar not null,
  "subjectCid" varchar not null,
  "createdAt" varchar not null,
  "indexedAt" varchar not null,
  "sortAt" varchar generated always as (least("createdAt", "indexedAt")) stored not null
);
create index quote_subject_cursor_idx on quote (subject, "sortAt", cid);

create table op_thread_reply (
  "rootUri" varchar,
  uri varchar,
  "parentUri" varchar not null,
  "deletedAt" varchar,
  primary key ("rootUri", uri)
);

create table thread_gate (
  uri varchar primary key,
  cid varchar not null,
  creator varchar not null,
  "postUri" varchar not null unique,
  "createdAt" varchar not null,
  "indexedAt" varchar not null
);

create table post_gate (
  uri varchar primary key,
  cid varchar not null,
  creator varchar not null,
  "postUri" varchar not null unique,
  "createdAt" varchar not null,
  "indexedAt" varchar not null
);

create table feed_item (
  uri varchar primary key,
  cid varchar not null,
  type varchar not null,
  "postUri" varchar not null,
  "originatorDid" varchar not null,
  "sortAt" varchar not null
);
create index feed_item_cursor_idx on feed_item ("sortAt", cid);
create index feed_item_originator_cursor_idx on feed_item ("originatorDid", "sortAt", cid);
create index feed_item_post_uri_idx on feed_item ("postUri");

-- What accounts do to posts and to each other.

create table "like" (
  uri varchar primary key,
  cid varchar not null,
  creator varchar not null,
  subject varchar not null,
  "subjectCid" varchar not null,
  via varchar,
  "viaCid" varchar,
  "createdAt" varchar not null,
  "indexedAt" varchar not null,
  "sortAt" varchar generated always as (least("createdAt", "indexedAt")) stored not null,
  constraint like_unique_subject unique (subject, creator)
);
create index like_creator_cursor_idx on "like" (creator, "sortAt", cid);
create index like_subject_sort_at_creator_idx on "like" (subject, "sortAt" desc) include (creator);

create table repost (
  uri varchar primary key,
  cid varchar not null,
  creator varchar not null,
  subject varchar not null,
  "subjectCid" varchar not null,
  via varchar,
  "viaCid" varchar,
  "createdAt" varchar not null,
  "indexedAt" varchar not null,
  "sortAt" varchar generated always as (least("createdAt", "indexedAt")) stored not null,
  constraint repost_unique_subject unique (creator, subject)
);
create index repost_order_by_idx on repost ("sortAt", cid);
create index repost_subject_idx on repost (subject);

create table follow (
  uri varchar primary key,
  cid varchar not null,
  creator varchar not null,
  "subjectDid" varchar not null,
  "createdAt" varchar not null,
  "indexedAt" varchar not null,
  "sortAt" varchar generated always as (least("createdAt", "indexedAt")) stored not null,
  constraint follow_unique_subject unique (creator, "subjectDid")
);
create index follow_creator_cursor_idx on follow (creator, "sortAt", cid);
create index follow_subject_cursor_idx on follow ("subjectDid", "sortAt", cid);

create table actor_block (
  uri varchar primary key,
  cid varchar not null,
  creator varchar not null,
  "subjectDid" varchar not null,
  "createdAt" varchar not null,
  "indexedAt" varchar not null,
  "sortAt" varchar generated always as (least("createdAt", "indexedAt")) stored not null,
  constraint actor_block_unique_subject unique (creator, "subjectDid")
);
create index actor_block_subjectdid_idx on actor_block ("subjectDid");

create table verification (
  uri varchar primary key,
  cid varchar not null,
  rkey varchar not null,
  creator varchar not null,
  subject varchar not null,
  handle varchar not null,
  "displayName" varchar not null,
  "createdAt" varchar not null,
  "indexedAt" varchar not null,
  "sortedAt" varchar generated always as (least("createdAt", "indexedAt")) stored not null,
  constraint verification_unique_subject_creator unique (subject, creator)
);

-- Lists and starter packs.

create table list (
  uri varchar primary key,
  cid varchar not null,
  creator varchar not null,
  name varchar not null,
  purpose varchar not null,
  description varchar,
  "descriptionFacets" varchar,
  "avatarCid" varchar,
  "createdAt" varchar not null,
  "indexedAt" varchar not null,
  "sortAt" varchar generated always as (least("createdAt", "indexedAt")) stored not null
);
create index list_creator_idx on list (creator);

create table list_item (
  uri varchar primary key,
  cid varchar not null,
  creator varchar not null,
  "listUri" varchar not null,
  "subjectDid" varchar not null,
  "createdAt" varchar not null,
  "indexedAt" varchar not null,
  "sortAt" varchar generated always as (least("createdAt", "indexedAt")) stored not null,
  constraint list_item_unique_subject_in_list unique ("listUri", "subjectDid")
);
create index list_item_creator_idx on list_item (creator);
create index list_item_subject_idx on list_item ("subjectDid");

create table list_block (
  uri varchar primary key,
  cid varchar not null,
  creator varchar not null,
  "subjectUri" varchar not null,
  "createdAt" varchar not null,
  "indexedAt" varchar not null,
  "sortAt" varchar generated always as (least("createdAt", "indexedAt")) stored not null,
  constraint list_block_unique_subject unique (creator, "subjectUri")
);

create table reference_list_opt_out (
  uri varchar primary key,
  cid varchar not null,
  creator varchar not null,
  "subjectUri" varchar not null,
  "createdAt" varchar not null,
  "indexedAt" varchar not null,
  "sortAt" varchar generated always as (least("createdAt", "indexedAt")) stored not null,
  constraint reference_list_opt_out_unique_subject unique (creator, "subjectUri")
);

create table starter_pack (
  uri varchar primary key,
  cid varchar not null,
  creator varchar not null,
  name varchar,
  "createdAt" varchar not null,
  "indexedAt" varchar not null,
  "sortAt" varchar generated always as (least("createdAt", "indexedAt")) stored not null
);
create index starter_pack_creator_order_by_idx on starter_pack (creator, "sortAt", cid);
create index starter_pack_name_tgrm_idx on starter_pack using gist (name gist_trgm_ops);

-- Accounts and the services they declare.

create table actor (
  did varchar primary key,
  handle varchar unique,
  "indexedAt" varchar not null,
  "takedownRef" varchar,
  "upstreamStatus" varchar,
  "trustedVerifier" boolean not null default false,
  "ageAssuranceStatus" text,
  "ageAssuranceLastInitiatedAt" varchar,
  "ageAssuranceAccess" text,
  "ageAssuranceCountryCode" text,
  "ageAssuranceRegionCode" text
);
create index actor_handle_tgrm_idx on actor using gist (handle gist_trgm_ops);

create table actor_sync (
  did varchar primary key,
  "commitCid" varchar not null,
  "repoRev" varchar
);

create table profile (
  uri varchar primary key,
  cid varchar not null,
  creator varchar not null,
  "displayName" varchar,
  description varchar,
  "avatarCid" varchar,
  "bannerCid" varchar,
  "joinedViaStarterPackUri" varchar,
  "pinnedPost" varchar,
  "pinnedPostCid" varchar,
  "createdAt" varchar not null,
  "indexedAt" varchar not null
);
create index profile_creator_idx on profile (creator);
create index profile_display_name_tgrm_idx on profile using gist ("displayName" gist_trgm_ops);
create index profile_starter_pack_joined_idx on profile ("joinedViaStarterPackUri", "createdAt");

create table feed_generator (
  uri varchar primary key,
  cid varchar not null,
  creator varchar not null,
  "feedDid" varchar not null,
  "displayName" varchar,
  description varchar,
  "descriptionFacets" varchar,
  "avatarCid" varchar,
  "createdAt" varchar not null,
  "indexedAt" varchar not null,
  "sortAt" varchar generated always as (least("createdAt", "indexedAt")) stored not null
);
create index feed_generator_creator_index on feed_generator (creator);

create table labeler (
  uri varchar primary key,
  cid varchar not null,
  creator varchar not null,
  "createdAt" varchar not null,
  "indexedAt" varchar not null,
  "sortAt" varchar generated always as (least("createdAt", "indexedAt")) stored not null
);
create index labeler_order_by_idx on labeler ("sortAt", cid);

create table label (
  src varchar,
  uri varchar,
  cid varchar,
  val varchar,
  neg boolean not null,
  cts varchar not null,
  exp varchar,
  primary key (src, uri, cid, val)
);
create index label_uri_index on label (uri);
create index label_cts_idx on label (cts);

-- Counts and notifications.

create table post_agg (
  uri varchar primary key,
  "likeCount" bigint not null default 0,
  "replyCount" bigint not null default 0,
  "repostCount" bigint not null default 0,
  "quoteCount" bigint not null default 0,
  "bookmarkCount" bigint not null default 0
);

create table profile_agg (
  did varchar primary key,
  "followersCount" bigint not null default 0,
  "followsCount" bigint not null default 0,
  "postsCount" bigint not null default 0
);

create table notification (
  id bigserial primary key,
  did varchar not null,
  author varchar not null,
  reason varchar not null,
  "reasonSubject" varchar,
  "recordUri" varchar not null,
  "recordCid" varchar not null,
  "sortAt" varchar not null
);
create index notification_did_sortat_idx on notification (did, "sortAt");
create index notification_author_idx on notification (author);
create index notification_record_idx on notification ("recordUri");

create table notification_push_token (
  did varchar,
  token varchar,
  platform varchar not null,
  "appId" varchar not null,
  primary key (did, token)
);

-- What the AppView and bsync write themselves.

create table mute (
  "mutedByDid" varchar,
  "subjectDid" varchar,
  "createdAt" varchar not null,
  "onlyReposts" boolean not null default false,
  "onlyQuoteposts" boolean not null default false,
  primary key ("mutedByDid", "subjectDid")
);

create table list_mute (
  "mutedByDid" varchar,
  "listUri" varchar,
  "createdAt" varchar not null,
  primary key ("mutedByDid", "listUri")
);

create table thread_mute (
  "rootUri" varchar,
  "mutedByDid" varchar,
  "createdAt" varchar not null,
  primary key ("rootUri", "mutedByDid")
);

create table actor_state (
  did varchar primary key,
  "lastSeenNotifs" varchar not null,
  "priorityNotifs" boolean not null default false
);

create table activity_subscription (
  creator varchar,
  key varchar,
  "subjectDid" varchar not null,
  "indexedAt" varchar not null,
  post boolean not null,
  reply boolean not null,
  primary key (creator, key),
  constraint activity_subscription_unique_creator_subject_did unique (creator, "subjectDid")
);

create table bookmark (
  creator varchar,
  key varchar,
  "subjectUri" varchar not null,
  "subjectCid" varchar not null,
  "indexedAt" varchar not null,
  primary key (creator, key),
  constraint bookmark_unique_uri_creator unique ("subjectUri", creator)
);

create table draft (
  creator varchar,
  key varchar,
  "createdAt" varchar not null,
  "updatedAt" varchar not null,
  payload text not null,
  primary key (creator, key)
);
create index draft_creator_updated_at_key_idx on draft (creator, "updatedAt", key);

create table private_data (
  "actorDid" varchar,
  namespace varchar,
  key varchar,
  payload text not null,
  "indexedAt" varchar not null,
  "updatedAt" varchar not null,
  primary key ("actorDid", namespace, key)
);

create table suggested_follow (
  did varchar primary key,
  "order" integer not null
);

create table suggested_feed (
  uri varchar primary key,
  "order" integer not null
);

create table tagged_suggestion (
  tag varchar,
  subject varchar,
  "subjectType" varchar not null,
  primary key (tag, subject)
);

create table did_cache (
  did varchar primary key,
  doc jsonb not null,
  "updatedAt" bigint not null
);

create table subscription (
  service varchar,
  method varchar,
  state varchar not null,
  primary key (service, method)
);

-- Moderation: blob_takedown is read; the rest is what the AppView's history left behind.

create table blob_takedown (
  did varchar,
  cid varchar,
  "takedownRef" varchar not null,
  primary key (did, cid)
);

create table moderation_action (
  id serial primary key,
  action varchar not null,
  "subjectType" varchar not null,
  "subjectDid" varchar not null,
  "subjectUri" varchar,
  "subjectCid" varchar,
  reason text not null,
  "createdAt" varchar not null,
  "createdBy" varchar not null,
  "reversedAt" varchar,
  "reversedBy" varchar,
  "reversedReason" text,
  "createLabelVals" varchar,
  "negateLabelVals" varchar,
  "durationInHours" integer,
  "expiresAt" varchar
);

create table moderation_action_subject_blob (
  "actionId" integer references moderation_action (id),
  cid varchar,
  primary key ("actionId", cid)
);
create index moderation_action_subject_blob_cid_idx on moderation_action_subject_blob (cid);

create table moderation_report (
  id serial primary key,
  "subjectType" varchar not null,
  "subjectDid" varchar not null,
  "subjectUri" varchar,
  "subjectCid" varchar,
  "reasonType" varchar not null,
  reason text,
  "reportedByDid" varchar not null,
  "createdAt" varchar not null
);

create table moderation_report_resolution (
  "reportId" integer references moderation_report (id),
  "actionId" integer references moderation_action (id),
  "createdAt" varchar not null,
  "createdBy" varchar not null,
  primary key ("reportId", "actionId")
);
create index moderation_report_resolution_action_id_idx
  on moderation_report_resolution ("actionId");

create table moderation_event (
  id serial primary key,
  action varchar not null,
  "subjectType" varchar not null,
  "subjectDid" varchar not null,
  "subjectUri" varchar,
  "subjectCid" varchar,
  comment text,
  meta jsonb,
  "createdAt" varchar not null,
  "createdBy" varchar not null,
  "reversedAt" varchar,
  "reversedBy" varchar,
  "reversedReason" text,
  "durationInHours" integer,
  "expiresAt" varchar,
  "createLabelVals" varchar,
  "negateLabelVals" varchar,
  "legacyRefId" integer
);

create table moderation_subject_status (
  id serial primary key,
  did varchar not null,
  "recordPath" varchar not null default '',
  "recordCid" varchar,
  "blobCids" jsonb,
  "reviewState" varchar not null,
  comment varchar,
  takendown boolean not null default false,
  "muteUntil" varchar,
  "suspendUntil" varchar,
  "lastReportedAt" varchar,
  "lastReviewedAt" varchar,
  "lastReviewedBy" varchar,
  "createdAt" varchar not null,
  "updatedAt" varchar not null,
  constraint moderation_status_unique_idx unique (did, "recordPath")
);
create index moderation_subject_status_blob_cids_idx
  on moderation_subject_status using gin ("blobCids");

-- A view that nothing reads any more; a migration to come may drop it, and must find it.

create table view_param (
  name varchar primary key,
  value varchar
);
insert into view_param (name, value)
values ('whats_hot_interval', '1day'), ('whats_hot_like_threshold', '2');

create materialized view algo_whats_hot_view as
select
  post.uri,
  post.cid,
  round(1000000 * (
    post_agg."likeCount"
    / (extract(epoch from age(now(), post."indexedAt"::timestamp)) / 3600 + 2) ^ 1.8
  )) as score
from post
join post_agg on post_agg.uri = post.uri
where
  post."indexedAt" > (
    select to_char(now() - value::interval, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as val
    from view_param where name = 'whats_hot_interval'
  )
  and post."replyParent" is null
  and post_agg."likeCount" > (
    select value::integer as val from view_param where name = 'whats_hot_like_threshold'
  );
create unique index algo_whats_hot_view_uri_idx on algo_whats_hot_view (uri);
create index algo_whats_hot_view_cursor_idx on algo_whats_hot_view (score, cid);

-- The AppView runs its migrations when it starts. It must find that all 61 are done, or it would
-- create these tables again and fail; and it continues from here when it is newer than 0.0.280.

create table kysely_migration (
  name varchar(255) primary key,
  "timestamp" varchar(255) not null
);
create table kysely_migration_lock (
  id varchar(255) primary key,
  is_locked integer not null default 0
);
insert into kysely_migration_lock (id, is_locked) values ('migration_lock', 0);
insert into kysely_migration (name, "timestamp")
select '_' || name, to_char(now() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
from unnest(array[
  '20230309T045948368Z', '20230408T152211201Z', '20230417T210628672Z', '20230420T211446071Z',
  '20230427T194702079Z', '20230605T144730094Z', '20230607T211442112Z', '20230608T155101190Z',
  '20230608T201813132Z', '20230608T205147239Z', '20230609T153623961Z', '20230609T232122649Z',
  '20230610T203555962Z', '20230611T215300060Z', '20230620T161134972Z', '20230627T212437895Z',
  '20230629T220835893Z', '20230703T045536691Z', '20230720T164800037Z', '20230807T035309811Z',
  '20230808T172902639Z', '20230810T203349843Z', '20230817T195936007Z', '20230830T205507322Z',
  '20230904T211011773Z', '20230906T222220386Z', '20230920T213858047Z', '20230929T192920807Z',
  '20231003T202833377Z', '20231220T225126090Z', '20240124T023719200Z', '20240226T225725627Z',
  '20240530T170337073Z', '20240606T171229898Z', '20240606T222548219Z', '20240719T203853939Z',
  '20240723T220700077Z', '20240723T220703655Z', '20240801T193939827Z', '20240808T224251220Z',
  '20240829T211238293Z', '20240831T134810923Z', '20241114T153108102Z', '20250116T222618297Z',
  '20250207T174822012Z', '20250404T163421487Z', '20250526T023712742Z', '20250528T221913281Z',
  '20250602T190357447Z', '20250611T140649895Z', '20250627T025331240Z', '20250812T183735692Z',
  '20250813T174955711Z', '20251120T004738098Z', '20260112T133951271Z', '20260604T224952774Z',
  '20260618T200000000Z', '20260729T223157563Z', '20260819T170000000Z', '20260827T200000000Z',
  '20260904T130000000Z'
]) as done (name);
