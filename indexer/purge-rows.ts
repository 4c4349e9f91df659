/** What goes with an account: everything that the table of collections knows, and what is about it. */
import type { Transaction } from '../shared/postgres.ts'
import { type ApplyOptions, removeRecords } from './apply.ts'
import { compareText } from './fold.ts'
import { quoted } from './write.ts'

/** Small enough that the counters of what the account liked are held for milliseconds. */
const portion = 500

/** Removes some of what the account has up to its fence; false when there was nothing. */
export async function removeSome(
  tx: Transaction,
  apply: ApplyOptions,
  did: string,
): Promise<boolean> {
  const records = await tx.unsafe<{ uri: string }[]>(
    `select r.uri from record r join repo_sync s on s.did = r.did
     where r.did = $1 and (r.rev is null or r.rev <= s."purgedRev") limit ${portion}`,
    [did],
  )
  const uris = records.map(({ uri }) => uri).sort(compareText)
  await removeRecords(tx, apply, uris)
  return uris.length > 0 || (await adoptOrphans(tx, apply, did)) || (await forgetNews(tx, did))
}

/**
 * Older workers have left rows without a record: they are given one, so that the next portion takes
 * them and the counters follow. True when there were any.
 */
async function adoptOrphans(
  tx: Transaction,
  { collections }: ApplyOptions,
  did: string,
): Promise<boolean> {
  let adopted = 0
  for (const { nsid, rows } of collections) {
    if (rows === undefined) continue
    const result = await tx.unsafe(
      `insert into record (uri, cid, did, json, "indexedAt")
       select t.uri, t.cid, $1::text, '{}', t."indexedAt" from ${quoted(rows.table)} t
       where t.creator = $1 and t.uri like $2
         and not exists (select from record r where r.uri = t.uri) limit ${portion}`,
      [did, under(did, nsid)],
    )
    adopted += result.count
  }
  return adopted > 0
}

/** Notifications to the account, and what is left of those that it caused. */
async function forgetNews(tx: Transaction, did: string): Promise<boolean> {
  const gone = await tx.unsafe(
    `delete from notification where id = any(array(
       select id from notification n join repo_sync s on s.did = $1
       where (n.did = $1 or n.author = $1) and s.rev <= s."purgedRev" limit ${portion}))`,
    [did],
  )
  return gone.count > 0
}

/** The last of it: rows that hang on no record, and what is known of the repo; not the account. */
export async function removeRest(
  tx: Transaction,
  { collections }: ApplyOptions,
  did: string,
): Promise<void> {
  const lost = (key: string) =>
    `${key} like $1 and not exists (select from record r where r.uri = ${key})`
  for (const { table, key, softDelete } of childrenOf(collections)) {
    const first = quoted(Object.keys(softDelete?.key ?? {})[0] ?? key)
    const column = `${quoted(table)}.${quoted(key)}`
    await tx.unsafe(`delete from ${quoted(table)} where ${first} like $1 and ${lost(column)}`, [
      under(did),
    ])
  }
  await tx.unsafe(`delete from duplicate_record where ${lost('duplicate_record.uri')}`, [
    under(did),
  ])
  await tx.unsafe(
    `delete from record_tombstone t using repo_sync s
     where t.did = $1 and s.did = $1 and t.rev <= s."purgedRev"`,
    [did],
  )
  await tx.unsafe(
    `delete from actor_sync using repo_sync s
     where actor_sync.did = $1 and s.did = $1 and s.rev <= s."purgedRev"`,
    [did],
  )
}

/** Unless something newer of the account has come. */
export async function forgetActor(tx: Transaction, did: string): Promise<void> {
  await tx.unsafe(
    `delete from actor using repo_sync s
     where actor.did = $1 and s.did = $1 and s.rev <= s."purgedRev"`,
    [did],
  )
}

function childrenOf(collections: ApplyOptions['collections']) {
  return collections.flatMap(({ rows }) => rows?.children ?? [])
}

/** The pattern of the URIs of an account, or of one collection of it. */
function under(did: string, nsid?: string): string {
  const path = nsid === undefined ? `at://${did}/` : `at://${did}/${nsid}/`
  return `${path.replaceAll(/[\\%_]/g, '\\$&')}%`
}
