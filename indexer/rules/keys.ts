/**
 * The keys in `reconcile` of what is to be set from what is there: written with the rows that were
 * touched, deleted with what follows from them. Only who has locked the repo in the key's URI
 * touches a key of these kinds.
 */
import type { Transaction } from '../../shared/postgres.ts'
import { compareText } from '../fold.ts'
import { columnar } from '../write.ts'

/**
 * - `post`: the post came.
 * - `replies`: the post changed for those who answer it.
 * - `thread`: the gate of the thread under this root changed, or its root came.
 * - `quotes`: the gate of those who quote the post changed.
 */
export type Kind = 'post' | 'replies' | 'thread' | 'quotes'
export const kinds: readonly Kind[] = ['post', 'replies', 'thread', 'quotes']

export interface Key {
  kind: Kind
  /** The URI of a post. */
  key: string
  /** Where a walk over many rows continues; null at its beginning. */
  after: string | null
  /** Of `replies`: down to which level new ancestors are told. */
  depth: number
  /** Nobody is told: the event came from a backfill. */
  quiet: boolean
}

const columns = ['kind', 'key', 'after', 'depth', 'quiet'] as const

/** Writes keys; one that is there already begins anew. */
export async function putKeys(sql: Transaction, keys: readonly Key[]): Promise<void> {
  if (keys.length === 0) return
  const sorted = [...keys].sort((a, b) => compareText(a.kind, b.kind) || compareText(a.key, b.key))
  const { relation, parameters } = columnar(columns, sorted)
  await sql.unsafe(
    `insert into reconcile as k (kind, key, "after", depth, quiet)
     select r.kind, r.key, r."after", r.depth::int, r.quiet::boolean from ${relation}
     on conflict (kind, key) do update set "after" = excluded."after",
       depth = greatest(k.depth, excluded.depth), quiet = k.quiet and excluded.quiet`,
    parameters,
  )
}

/** Deletes keys and returns those that were still there as they were read. */
export async function takeKeys(sql: Transaction, keys: readonly Key[]): Promise<Key[]> {
  const { relation, parameters } = columnar(columns, keys)
  return await sql.unsafe<Key[]>(
    `delete from reconcile k using ${relation}
     where k.kind = r.kind and k.key = r.key and k."after" is not distinct from r."after"
     returning k.kind, k.key, k."after", k.depth, k.quiet`,
    parameters,
  )
}

/** The keys that are there, in their order; `from` is where the last page ended. */
export async function readKeys(
  sql: Transaction,
  from: Pick<Key, 'kind' | 'key'> | null,
  limit: number,
): Promise<Key[]> {
  return await sql.unsafe<Key[]>(
    `select kind, key, "after", depth, quiet from reconcile
     where (kind, key) > ($1, $2) and kind = any($3::text[]) order by kind, key limit $4`,
    [from?.kind ?? '', from?.key ?? '', kinds as Kind[], limit],
  )
}

/** Keys as they gather: of one that is put twice the beginning, the depth and the noise win. */
export class Keys {
  readonly #keys = new Map<string, Key>()

  put(key: Key): void {
    const id = `${key.kind} ${key.key}`
    const known = this.#keys.get(id) ?? key
    this.#keys.set(id, {
      ...key,
      after: known.after === null ? null : key.after,
      depth: Math.max(known.depth, key.depth),
      quiet: known.quiet && key.quiet,
    })
  }

  all(): Key[] {
    return [...this.#keys.values()]
  }
}
