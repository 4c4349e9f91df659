/** Times in other forms than ours: readers compare them as text. */
import type { Transaction } from '../../shared/postgres.ts'
import { lockRepos } from '../repos.ts'
import { normaliseTime } from '../timestamp.ts'
import { authorOf } from '../uri.ts'
import { quoted, relation } from '../write.ts'
import { type Patient, pageOf, type Walk } from './walk.ts'

const canonical = String.raw`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`
const timeColumns = ['createdAt', 'indexedAt', 'sortAt', 'deletedAt', 'cts', 'exp']
/** What the reference stores as the record has it. */
const raw = new Set(['profile.createdAt'])

/** The key of each table that is not keyed by `uri`. */
const keys: Readonly<Record<string, readonly string[]>> = {
  actor: ['did'],
  notification: ['id'],
  label: ['src', 'uri', 'cid', 'val'],
  op_thread_reply: ['rootUri', 'uri'],
}
const others = ['record', 'duplicate_record', 'actor', 'label', 'notification']

/** One walk for each table that has times that a writer chooses. */
export function walkTimes({ apply, columns }: Patient): Walk[] {
  const ours = apply.collections.flatMap(({ rows }) =>
    rows === undefined ? [] : [rows.table, ...(rows.children ?? []).map(({ table }) => table)],
  )
  return [...new Set([...others, ...ours])].flatMap((table) => {
    const times = columns
      .filter(({ table: of, name, generated }) => {
        return of === table && timeColumns.includes(name) && !generated && !raw.has(`${of}.${name}`)
      })
      .map(({ name }) => name)
    return times.length === 0 ? [] : [walkTable(table, keys[table] ?? ['uri'], times)]
  })
}

type Texts = Record<string, string | null>

function walkTable(table: string, key: readonly string[], times: readonly string[]): Walk {
  // Only what is not in order is sent.
  const what = times
    .map(
      (name) => `case when t.${quoted(name)} !~ '${canonical}' then t.${quoted(name)} end
      as ${quoted(`old ${name}`)}`,
    )
    .join(', ')
  return {
    name: `times of ${table}`,
    table,
    page: async (sql, { after: from, size, repair }) => {
      const { rows, after } = await pageOf<Texts>(sql, { table, key, what, size }, from)
      const wrong = rows.filter((row) => times.some((name) => row[`old ${name}`] != null))
      if (repair && wrong.length > 0) {
        // Labels are about repos, and belong to none.
        const uris = table === 'label' ? [] : wrong.flatMap((row) => row['uri'] ?? [])
        await lockRepos(sql, [], uris.map(authorOf))
        for (const name of times) await normalise(sql, { table, key, name }, wrong)
      }
      return { after, seen: rows.length, found: { times: wrong.length } }
    },
  }
}

/** A row that has changed meanwhile is left alone. */
async function normalise(
  sql: Transaction,
  { table, key, name }: { table: string; key: readonly string[]; name: string },
  rows: readonly Texts[],
): Promise<void> {
  const old = `old ${name}`
  const wrong = rows.filter((row) => row[old] != null)
  const fixed = wrong.map((row) => ({ ...row, new: normaliseTime(String(row[old])) }))
  const type = table === 'notification' ? '::bigint' : ''
  const same = key.map((column) => `t.${quoted(column)} = r.${quoted(column)}${type}`)
  await sql.unsafe(
    `update ${quoted(table)} t set ${quoted(name)} = r.new
     from ${relation([...key, old, 'new'])}
     where ${same.join(' and ')} and t.${quoted(name)} = r.${quoted(old)}`,
    [JSON.stringify(fixed)],
  )
}
