/** Columns with the CID of a blob that older workers left NULL, though the record has one. */
import { healRecord } from '../../shared/heal.ts'
import { lockRepos } from '../repos.ts'
import { authorOf, partsOf } from '../uri.ts'
import { quoted, relation } from '../write.ts'
import { type Patient, pageOf, type Walk } from './walk.ts'

/** Each table with such columns, and what the record says when it has a blob. */
const places = [
  { table: 'profile', key: 'uri', columns: { avatarCid: '"avatar":', bannerCid: '"banner":' } },
  { table: 'list', key: 'uri', columns: { avatarCid: '"avatar":' } },
  { table: 'feed_generator', key: 'uri', columns: { avatarCid: '"avatar":' } },
  { table: 'post_embed_external', key: 'postUri', columns: { thumbCid: '"thumb":' } },
] as const

interface Candidate {
  uri: string
  cid: string
  indexedAt: string
  /** The record; null where the row needs no look. */
  json: string | null
}

type Derived = Record<string, unknown>

export function walkBlobs(patient: Patient): Walk[] {
  return places.map((place) => walkPlace(patient, place))
}

function walkPlace({ apply }: Patient, place: (typeof places)[number]): Walk {
  const { table, key } = place
  const columns = Object.keys(place.columns)
  const lacks = Object.entries(place.columns).map(
    ([column, sign]) => `(t.${quoted(column)} is null and r.json like '%${sign}%')`,
  )
  return {
    name: `blobs of ${table}`,
    table,
    page: async (sql, { after: from, size, repair }) => {
      const what = `r.uri, r.cid, r."indexedAt", case when ${lacks.join(' or ')} then r.json end as json`
      const join = `left join record r on r.uri = t.${quoted(key)}`
      const { rows, after } = await pageOf<Candidate>(
        sql,
        { table, key: [key], what, join, size },
        from,
      )
      const derived = rows.flatMap((row): Derived[] => {
        const found = derivedRow(apply, table, row)
        return found === null ? [] : [found]
      })
      const lacking = derived.filter((row) => columns.some((column) => row[column] != null))
      if (lacking.length === 0) return { after, seen: rows.length, found: { blobs: 0 } }
      // Of two columns one may be there already.
      const missing = await sql.unsafe<{ key: string }[]>(
        `select t.${quoted(key)} as key from ${quoted(table)} t join ${relation([key, ...columns])}
           on t.${quoted(key)} = r.${quoted(key)}
         where ${columns.map((name) => `(t.${quoted(name)} is null and r.${quoted(name)} is not null)`).join(' or ')}`,
        [JSON.stringify(lacking)],
      )
      if (repair && missing.length > 0) {
        await lockRepos(
          sql,
          [],
          missing.map((row) => authorOf(row.key)),
        )
        const set = columns.map(
          (name) => `${quoted(name)} = coalesce(t.${quoted(name)}, r.${quoted(name)})`,
        )
        // The record must still be the one that was read.
        await sql.unsafe(
          `update ${quoted(table)} t set ${set.join(', ')}
           from ${relation([key, ...columns, 'recordCid'])}, record
           where t.${quoted(key)} = r.${quoted(key)} and record.uri = r.${quoted(key)}
             and record.cid = r."recordCid"`,
          [JSON.stringify(lacking)],
        )
      }
      return { after, seen: rows.length, found: { blobs: missing.length } }
    },
  }
}

/** The row of this table that the record asks for, by the table of collections. */
function derivedRow(
  { collections, deriver }: Patient['apply'],
  table: string,
  { uri, cid, indexedAt, json }: Candidate,
): Derived | null {
  if (json === null) return null
  const { authority: did, collection: nsid, rkey } = partsOf(uri)
  const collection = collections.find((candidate) => candidate.nsid === nsid)
  if (collection === undefined) return null
  const healed = JSON.stringify(healRecord(JSON.parse(json), cid))
  const came = deriver.stored(collection, { uri, did, rkey, cid, indexedAt }, healed)
  const children = came?.children.flatMap(({ child, rows }) => (child.table === table ? rows : []))
  const row = collection.rows?.table === table ? came?.row : children?.[0]
  return row ? { ...row, recordCid: cid } : null
}
