/** A repo as its account has it, beside the rows that are stored of it. */
import type { Sql } from 'postgres'
import { Blocks } from '../backfiller/blocks.ts'
import { Failure, failureOf } from '../backfiller/failures.ts'
import type { Fetcher } from '../backfiller/fetch.ts'
import type { Memory } from '../backfiller/memory.ts'
import { isSignedBy, readBlocks } from '../backfiller/read.ts'
import { openRepo, proveTree, recordsOf } from '../backfiller/walk.ts'
import type { Deriver } from '../indexer/derive.ts'
import { type Identity, IdentityError } from '../shared/identity.ts'
import { sleep } from '../shared/retry.ts'
import type { Scope } from '../shared/scope.ts'

export interface CompareOptions {
  sql: Sql
  schema: string
  identity: Identity
  fetcher: Fetcher
  memory: Memory
  deriver: Deriver
  /** What the indexers keep. */
  inScope: Scope
  /** How long what is on its way may take to arrive before it counts as missing. */
  patienceMs: number
}

/** What differs; `failed` and `ended` repos could not be compared. */
export interface Comparison {
  did: string
  state: 'same' | 'differs' | 'failed' | 'ended'
  /** Why it could not be compared. */
  reason: string | null
  rev: string | null
  records: number
  /** URIs: not stored, stored and not in the repo, stored with another CID. */
  missing: readonly string[]
  extra: readonly string[]
  different: readonly string[]
}

const pollMs = 500

/** Fetches and proves the repo, and compares it with its rows. What is newer than it is left out. */
export async function compare(
  did: string,
  options: CompareOptions,
  signal: AbortSignal,
): Promise<Comparison> {
  const none = { did, rev: null, records: 0, missing: [], extra: [], different: [] }
  let repo: Awaited<ReturnType<typeof readRepo>>
  try {
    repo = await readRepo(did, options, signal)
  } catch (error) {
    if (signal.aborted) throw error
    if (error instanceof IdentityError) return { ...none, state: 'failed', reason: error.kind }
    const failure = failureOf(error)
    if (failure === null) throw error
    const state = failure.kind === 'ended' ? 'ended' : 'failed'
    return { ...none, state, reason: failure.reason }
  }
  const { rev, cids } = repo
  const until = Date.now() + options.patienceMs
  for (;;) {
    const found = differences(cids, await rowsOf(did, options), rev)
    const isSame = found.missing.length + found.extra.length + found.different.length === 0
    if (isSame || Date.now() >= until) {
      const state = isSame ? 'same' : 'differs'
      return { did, state, reason: null, rev, records: cids.size, ...found }
    }
    await sleep(pollMs, signal)
    signal.throwIfAborted()
  }
}

/** The CIDs of the records that should be stored, by URI. */
async function readRepo(did: string, options: CompareOptions, signal: AbortSignal) {
  const { identity, fetcher, memory, deriver, inScope } = options
  const { pds, signingKey } = await identity.resolve(did, { signal, refresh: true })
  if (pds === null) throw new Failure('no-pds')
  if (signingKey === null) throw new Failure('no-signing-key')
  using blocks = new Blocks(memory)
  const asking = { signal, heard: () => {}, slow: () => {} }
  const { body } = await fetcher.fetchRepo(pds, did, asking)
  const roots = await readBlocks(body, blocks, signal)
  const repo = openRepo(did, roots, blocks, Date.now())
  if (!isSignedBy(signingKey, repo)) throw new Failure('signature')
  const { rev, data } = repo.commit
  const proving = proveTree(data, blocks)
  while (!proving.next().done) signal.throwIfAborted()
  const cids = new Map<string, string>()
  const head = { type: 'create', seq: -1, time: '', did, commit: repo.cid, rev } as const
  for (const found of recordsOf(data, blocks, inScope)) {
    if (!('record' in found)) continue
    const { uri, came } = deriver.change({ ...head, ...found })
    if (came !== null) cids.set(uri, found.cid)
  }
  return { rev, cids }
}

export interface StoredRecord {
  uri: string
  cid: string
  rev: string | null
}

async function rowsOf(did: string, { sql, schema, inScope }: CompareOptions) {
  const rows = await sql<StoredRecord[]>`
    select uri, cid, rev from ${sql(schema)}.record where did = ${did}`
  return rows.filter(({ uri }) => inScope(uri.split('/')[3] ?? ''))
}

/** What differs between a repo at a rev and its rows; a row that is newer says nothing about it. */
export function differences(
  cids: ReadonlyMap<string, string>,
  rows: readonly StoredRecord[],
  rev: string,
): Pick<Comparison, 'missing' | 'extra' | 'different'> {
  const stored = new Map(rows.map((row) => [row.uri, row]))
  const isNewer = (row: StoredRecord) => row.rev !== null && row.rev > rev
  return {
    missing: [...cids.keys()].filter((uri) => !stored.has(uri)),
    extra: rows.filter((row) => !cids.has(row.uri) && !isNewer(row)).map(({ uri }) => uri),
    different: rows
      .filter((row) => cids.has(row.uri) && cids.get(row.uri) !== row.cid && !isNewer(row))
      .map(({ uri }) => uri),
  }
}
