/** A database that already holds a network: rows in every large table, made by Postgres itself. */
import type { Sql } from '../shared/postgres.ts'
import { base32, cid, famous, type World } from './mix.ts'

/** Of all records; what is left are likes. */
const shares = { posts: 0.16, follows: 0.12, reposts: 0.09 }

/** The world of a database with so many records. */
export function worldOf(records: number): World {
  return {
    accounts: Math.max(2_000, Math.floor(records / 100)),
    posts: Math.floor(records * shares.posts),
    fame: 0.1,
  }
}

/**
 * Fills an empty schema with this many records, their rows, counts and notifications, as `history`
 * would have made them before event number `records`. Indexes that keep nothing unique are made at its end.
 */
export async function fill(sql: Sql, schema: string, records: number): Promise<void> {
  const { accounts, posts } = worldOf(records)
  const follows = Math.floor(records * shares.follows)
  const reposts = Math.floor(records * shares.reposts)
  const firstFollow = posts
  const firstRepost = firstFollow + follows
  const firstLike = firstRepost + reposts
  const post = `pg_temp.uri(${subject(posts)} % ${accounts}, 'app.bsky.feed.post', ${subject(posts)})`
  const indexes = await sql<{ name: string; definition: string }[]>`
    select format('%I.%I', schemaname, indexname) as name, indexdef as definition
    from pg_indexes where schemaname = ${schema} and not exists (
      select from pg_constraint where conindid = format('%I.%I', schemaname, indexname)::regclass)`
  await sql.begin(async (tx) => {
    await tx.unsafe(
      `set local search_path to "${schema}", public; set local synchronous_commit to off;
       set local maintenance_work_mem to '1GB'`,
    )
    for (const { name } of indexes) await tx.unsafe(`drop index ${name}`)
    await tx.unsafe(helpers)
    await tx.unsafe(`
      insert into actor (did, "indexedAt") select pg_temp.did(n), pg_temp.at(0) from generate_series(0::bigint, ${accounts - 1}) n;
      insert into repo_sync (did, rev) select pg_temp.did(n), pg_temp.tid(${records}) from generate_series(0::bigint, ${accounts - 1}) n;
      insert into post (uri, cid, creator, text, langs, "createdAt", "indexedAt")
        select pg_temp.uri(n % ${accounts}, 'app.bsky.feed.post', n), '${cid}', pg_temp.did(n % ${accounts}), 'a post of the usual length about this and that, number ' || n, '["en"]', pg_temp.at(n), pg_temp.at(n)
        from generate_series(0::bigint, ${posts - 1}) n;
      update post set "replyRoot" = parent, "replyRootCid" = '${cid}', "replyParent" = parent, "replyParentCid" = '${cid}'
        from (select uri as reply, ${post} as parent from (select uri, n from generate_series(0::bigint, ${posts - 1}, 3) n, lateral pg_temp.uri(n % ${accounts}, 'app.bsky.feed.post', n) uri)) r
        where uri = reply and parent < reply;
      insert into feed_item (uri, cid, type, "postUri", "originatorDid", "sortAt")
        select uri, cid, 'post', uri, creator, "sortAt" from post;
      insert into follow (uri, cid, creator, "subjectDid", "createdAt", "indexedAt")
        select pg_temp.uri(n * 40503 % ${accounts}, 'app.bsky.graph.follow', n), '${cid}', pg_temp.did(n * 40503 % ${accounts}), pg_temp.did(case when n % 10 = 0 then n % ${famous} else n * 2654435761 % ${accounts} end), pg_temp.at(n), pg_temp.at(n)
        from generate_series(${firstFollow}::bigint, ${firstRepost - 1}) n on conflict do nothing;
      insert into repost (uri, cid, creator, subject, "subjectCid", "createdAt", "indexedAt")
        select pg_temp.uri(n * 40503 % ${accounts}, 'app.bsky.feed.repost', n), '${cid}', pg_temp.did(n * 40503 % ${accounts}), ${post}, '${cid}', pg_temp.at(n), pg_temp.at(n)
        from generate_series(${firstRepost}::bigint, ${firstLike - 1}) n on conflict do nothing;
      insert into "like" (uri, cid, creator, subject, "subjectCid", "createdAt", "indexedAt")
        select pg_temp.uri(n * 40503 % ${accounts}, 'app.bsky.feed.like', n), '${cid}', pg_temp.did(n * 40503 % ${accounts}), ${post}, '${cid}', pg_temp.at(n), pg_temp.at(n)
        from generate_series(${firstLike}::bigint, ${records - 1}) n on conflict do nothing;
    `)
    await tx.unsafe(`
      insert into feed_item (uri, cid, type, "postUri", "originatorDid", "sortAt")
        select uri, cid, 'repost', subject, creator, "sortAt" from repost;
      ${recordsOf('post', "'app.bsky.feed.post'", 'text')}
      ${recordsOf('follow', "'app.bsky.graph.follow'", '"subjectDid"')}
      ${recordsOf('repost', "'app.bsky.feed.repost'", 'subject')}
      ${recordsOf('"like"', "'app.bsky.feed.like'", 'subject')}
      insert into quote (uri, cid, subject, "subjectCid", "createdAt", "indexedAt")
        select uri, cid, "replyParent", cid, "createdAt", "indexedAt" from post where "replyParent" is not null and right(uri, 1) < '8';
      insert into post_embed_record ("postUri", "embedUri", "embedCid") select uri, subject, cid from quote;
      insert into post_embed_image ("postUri", position, "imageCid", alt) select uri, '0', cid, '' from post where right(uri, 1) between 'a' and 'f';
      insert into post_embed_gallery_image ("postUri", position, "imageCid", alt) select uri, '0', cid, '' from post where right(uri, 1) = 'g';
      insert into post_embed_external ("postUri", uri, title, description) select uri, 'https://example.com', '', '' from post where right(uri, 1) between 'h' and 'j';
      insert into post_embed_video ("postUri", "videoCid") select uri, cid from post where right(uri, 1) = 'k';
      insert into thread_gate (uri, cid, creator, "postUri", "createdAt", "indexedAt")
        select replace(uri, 'post', 'threadgate'), cid, creator, uri, "createdAt", "indexedAt" from post where right(uri, 1) = 'l';
      insert into post_gate (uri, cid, creator, "postUri", "createdAt", "indexedAt")
        select replace(uri, 'post', 'postgate'), cid, creator, uri, "createdAt", "indexedAt" from post where right(uri, 1) = 'm';
      insert into op_thread_reply ("rootUri", uri, "parentUri") select "replyRoot", uri, "replyParent" from post where "replyRoot" is not null and right(uri, 1) = 'n';
      insert into thread_mute ("rootUri", "mutedByDid", "createdAt") select uri, creator, "createdAt" from post where right(uri, 1) = 'o';
      insert into duplicate_record (uri, cid, "duplicateOf", "indexedAt") select uri || 'd', cid, uri, "indexedAt" from repost where right(uri, 1) = 'p';
      insert into record_tombstone (uri, did, rev, "deletedAt") select uri || 't', creator, split_part(uri, '/', 5), "indexedAt" from post where right(uri, 1) < 'd';
      insert into notification (did, author, reason, "reasonSubject", "recordUri", "recordCid", "sortAt")
        select split_part(subject, '/', 3), creator, 'like', subject, uri, cid, "sortAt" from "like";
      insert into notification (did, author, reason, "recordUri", "recordCid", "sortAt")
        select "subjectDid", creator, 'follow', uri, cid, "sortAt" from follow;
      insert into post_agg (uri, "likeCount", "repostCount", "replyCount", "quoteCount")
        select uri, coalesce(l.n, 0), coalesce(r.n, 0), coalesce(a.n, 0), coalesce(q.n, 0) from post
        left join (select subject, count(*) n from "like" group by 1) l on l.subject = uri
        left join (select subject, count(*) n from repost group by 1) r on r.subject = uri
        left join (select "replyParent", count(*) n from post group by 1) a on a."replyParent" = uri
        left join (select subject, count(*) n from quote group by 1) q on q.subject = uri;
      insert into profile_agg (did, "followersCount", "followsCount", "postsCount")
        select did, coalesce(a.n, 0), coalesce(b.n, 0), coalesce(c.n, 0) from actor
        left join (select "subjectDid", count(*) n from follow group by 1) a on a."subjectDid" = did
        left join (select creator, count(*) n from follow group by 1) b on b.creator = did
        left join (select creator, count(*) n from post group by 1) c on c.creator = did;
    `)
    for (const { definition } of indexes) await tx.unsafe(definition)
  })
  await sql.unsafe('vacuum analyze')
}

/** The famous posts have a tenth of all likes, the others share the rest. */
function subject(posts: number): string {
  return `(case when n % 10 = 0 then n % ${famous} else n * 2654435761 % ${posts} end)`
}

function recordsOf(table: string, nsid: string, column: string): string {
  return `insert into record (uri, cid, did, json, "indexedAt", rev)
    select uri, cid, creator, json_build_object('$type', ${nsid}, 'createdAt', "createdAt", 'subject', json_build_object('uri', ${column}, 'cid', cid))::text, "indexedAt", split_part(uri, '/', 5)
    from ${table};`
}

const digits = Array.from(
  { length: 10 },
  (_, k) => `substr('${base32}', (n >> ${45 - 5 * k} & 31)::int + 1, 1)`,
)

/** The names of `mix.ts`, in SQL. */
const helpers = `
  create function pg_temp.tid(n bigint) returns text language sql immutable as $$ select '3kz' || ${digits.join(' || ')} $$;
  create function pg_temp.did(n bigint) returns text language sql immutable as $$ select 'did:plc:' || rpad(pg_temp.tid(n), 24, 'a') $$;
  create function pg_temp.uri(account bigint, collection text, n bigint) returns text language sql immutable as $$ select 'at://' || pg_temp.did(account) || '/' || collection || '/' || pg_temp.tid(n) $$;
  create function pg_temp.at(n bigint) returns text language sql immutable as $$ select to_char(timestamp '2026-01-01' + n * interval '10 ms', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') $$;
`
