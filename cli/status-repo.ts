/** What `sluice status --repo` tells of one account: in the queue, at work, set aside, in Postgres. */
import type { Redis } from 'ioredis'
import { createIdentity } from '../shared/identity.ts'
import type { Sql } from '../shared/postgres.ts'
import { isDid, isHandle } from '../shared/repo/syntax.ts'
import { findLetters, letterStreams } from '../shared/streams/dead-letters.ts'
import { deadLetterStream, firstStream } from '../shared/streams/names.ts'
import { UserError } from './command.ts'
import { boardsOf, type Queue } from './status-backfill.ts'

const pageEntries = 2_000
const identity = { timeoutMs: 15_000, maxEntries: 10, ttlMs: 60_000 }

export interface RepoOptions {
  redis: Redis
  queue: Queue
  /** Without it nothing is said of Postgres. */
  database: { sql: Sql; schema: string } | null
  signal: AbortSignal
}

export async function readRepo(did: string, { redis, queue, database, signal }: RepoOptions) {
  const running = (await boardsOf(redis, queue))
    .flatMap(({ repos }) => repos)
    .filter((repo) => repo.did === did)
  const requests: { stream: string; id: string; request: string }[] = []
  for (const stream of [queue.stream, firstStream(queue.stream)]) {
    for await (const request of requestsFor(redis, stream, did)) {
      requests.push(request)
      signal.throwIfAborted()
    }
  }
  const letters: Record<'on' | 'id' | 'reason' | 'host' | 'attempts' | 'error', string>[] = []
  let setAsideAt = 0
  for (const name of letterStreams) {
    for await (const letter of findLetters(redis, name, { did })) {
      const { on, id, reason, host, fields, failedAt } = letter
      const { attempts = '', error = '' } = fields
      letters.push({ on, id, reason, host, attempts, error })
      if (on === deadLetterStream(queue.stream)) setAsideAt = failedAt
    }
  }
  const stored = database === null ? null : await storedOf(did, database)
  const state = stateOf({ running, requests, setAsideAt, stored })
  return { did, state, running, requests, letters, stored }
}

/** The same for people. */
export function repoText(found: Awaited<ReturnType<typeof readRepo>>): string {
  const { did, state, running, requests, letters, stored } = found
  return [
    `${did}: ${state}`,
    ...running.map((one) => `  at work: ${one.consumer}, at ${one.host}, since ${one.since}`),
    ...requests.map(({ stream, id, request }) => `  waiting: ${stream} ${id} ${request}`),
    ...letters.map((one) => `  set aside: ${one.on} ${one.id} ${one.reason} ${one.error}`),
    ...(stored === null ? [] : [`  in Postgres: ${JSON.stringify(stored)}`]),
  ].join('\n')
}

interface Parts {
  running: readonly unknown[]
  requests: readonly unknown[]
  /** When its last request was. */
  setAsideAt: number
  stored: Stored | null
}

function stateOf({ running, requests, setAsideAt, stored }: Parts): string {
  if (running.length > 0) return 'running'
  if (requests.length > 0) return 'waiting'
  // A repo that was read whole since has been mended.
  if (setAsideAt > Date.parse(stored?.snapshotAt ?? '1970-01-01')) return 'dead-lettered'
  if (stored?.purge) return `being removed: ${stored.purge}`
  if (stored?.status) return `ended: ${stored.status}`
  return stored?.snapshotRev ? `done at ${stored.snapshotRev}` : 'unknown'
}

/** The account that a DID or handle names. */
export async function didOf(
  account: string,
  config: Omit<Parameters<typeof createIdentity>[0], keyof typeof identity>,
  signal: AbortSignal,
): Promise<string> {
  if (isDid(account)) return account
  if (!isHandle(account)) throw new UserError(`${account} is neither a DID nor a handle`)
  using directory = createIdentity({ ...config, ...identity })
  const did = await directory.resolveHandle(account, { signal })
  if (did === null) throw new UserError(`${account} leads to no account`)
  return did
}

/** Looks through the whole queue: some seconds for a million requests. */
async function* requestsFor(redis: Redis, stream: string, did: string) {
  for (let after = '-'; ; ) {
    const page = await redis.xrange(stream, after, '+', 'COUNT', pageEntries)
    for (const [id, fields] of page) {
      const request = fields[fields.indexOf('repo') + 1] ?? ''
      if (request.includes(`"${did}"`)) yield { stream, id, request }
    }
    const end = page.at(-1)
    if (end === undefined || page.length < pageEntries) return
    after = `(${end[0]}`
  }
}

interface Stored {
  rev: string | null
  snapshotRev: string | null
  snapshotAt: string | null
  status: string | null
  statusAt: string | null
  records: number
  /** Where the removal of a deleted account is. */
  purge: string | null
}

async function storedOf(
  did: string,
  { sql, schema }: { sql: Sql; schema: string },
): Promise<Stored | null> {
  const [row] = await sql<Stored[]>`
    select s.rev, s."snapshotRev", s."snapshotAt", s.status, s."statusAt", p.state as purge,
      (select count(*) from ${sql(schema)}.record r where r.did = s.did) as records
    from ${sql(schema)}.repo_sync s left join ${sql(schema)}.account_purge p on p.did = s.did
    where s.did = ${did}`
  return row === undefined ? null : { ...row }
}
