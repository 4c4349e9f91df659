/** What older workers left in `record`: deletions that are rows, links that are byte arrays, old revs. */
import { healRecord } from '../../shared/heal.ts'
import type { Transaction } from '../../shared/postgres.ts'
import { removeRecords } from '../apply.ts'
import { lockRepos } from '../repos.ts'
import { authorOf } from '../uri.ts'
import { relation } from '../write.ts'
import { type Patient, pageOf, type Walk } from './walk.ts'

/** A CID as a list of bytes, with or without the zero before it. */
const byteLink = String.raw`\[\s*(0,\s*)?1,\s*(113|85),\s*18,\s*32,`

interface Marked {
  uri: string
  gone: boolean
  bytes: boolean
  stale: boolean
}

/** `since`: from then on workers without revs wrote to this database. */
export function walkRecords({ apply }: Patient, since: string | null): Walk {
  const what = `t.cid = '' and t.json = '{}' as gone, t.json ~ '${byteLink}' as bytes,
    ${since === null ? 'false' : `t.rev is not null and t."indexedAt" >= '${since}'`} as stale`
  return {
    name: since === null ? 'records' : 'records-since',
    table: 'record',
    page: async (sql, { after: from, size, repair }) => {
      const { rows, after } = await pageOf<Marked>(
        sql,
        { table: 'record', key: ['uri'], what, size },
        from,
      )
      const marked = (mark: 'gone' | 'bytes' | 'stale') =>
        rows.filter((row) => row[mark]).map(({ uri }) => uri)
      const [gone, stale] = [marked('gone'), marked('stale')]
      const healed = await healedLinks(sql, marked('bytes'))
      if (repair) {
        await lockRepos(sql, [], [...gone, ...stale, ...healed.map(({ uri }) => uri)].map(authorOf))
        await bury(sql, apply, gone)
        await writeHealed(sql, healed)
        await sql.unsafe('update record set rev = null where uri = any($1::text[])', [stale])
      }
      const found = { tombstones: gone.length, links: healed.length, revs: stale.length }
      return { after, seen: rows.length, found }
    },
  }
}

/** Deletes what stands for a deletion, as a deletion: where its rev is known, it stays deleted. */
async function bury(
  sql: Transaction,
  apply: Patient['apply'],
  candidates: readonly string[],
): Promise<void> {
  const gone = await sql.unsafe<{ uri: string; did: string; rev: string | null }[]>(
    `select uri, did, rev from record where uri = any($1::text[]) and cid = '' and json = '{}'`,
    [candidates as string[]],
  )
  if (gone.length === 0) return
  await removeRecords(
    sql,
    apply,
    gone.map(({ uri }) => uri),
  )
  await sql.unsafe(
    `insert into record_tombstone as t (uri, did, rev, "deletedAt")
     select uri, did, rev, $2 from ${relation(['uri', 'did', 'rev'])} where rev is not null
     on conflict (uri) do update set rev = greatest(t.rev, excluded.rev)`,
    [JSON.stringify(gone), new Date().toISOString()],
  )
}

interface Healed {
  uri: string
  cid: string
  json: string
}

async function healedLinks(sql: Transaction, uris: readonly string[]): Promise<Healed[]> {
  if (uris.length === 0) return []
  const records = await sql.unsafe<Healed[]>(
    'select uri, cid, json from record where uri = any($1::text[])',
    [uris as string[]],
  )
  return records.flatMap(({ uri, cid, json }) => {
    const healed = JSON.stringify(healRecord(JSON.parse(json), cid))
    return healed === json ? [] : [{ uri, cid, json: healed }]
  })
}

/** A record that has changed meanwhile is another one, and not ours to heal. */
async function writeHealed(sql: Transaction, healed: readonly Healed[]): Promise<void> {
  await sql.unsafe(
    `update record set json = r.json from ${relation(['uri', 'cid', 'json'])}
     where record.uri = r.uri and record.cid = r.cid`,
    [JSON.stringify(healed)],
  )
}
