/** Whole repos against live events, from hosts to rows: what a resync makes true, and what it must not undo. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { sluice } from '../cli/testing.ts'
import { encodeRequest } from '../shared/events.ts'
import type { Account } from '../simulator/account.ts'
import { createRandom, type Random } from '../simulator/random.ts'
import { sharedJsonLines } from './data.ts'
import { env as testEnv } from './env.ts'
import { eventually, type Pipeline, type RunningWorker, startPipeline } from './pipeline.ts'
import { carOf, documentOf, type RecordedRepo } from './recorded-repos.ts'

/** How many backfills run into a repo that is being written; `npm run test:backfill` has more. */
const times = Number(testEnv['RESYNC_TIMES'] ?? 20)
const post = 'app.bsky.feed.post'
const all = { BACKFILLER_COLLECTIONS: '*', INDEXER_COLLECTIONS: '*', INGESTER_COLLECTIONS: '*' }

let pipeline: Pipeline
let backfiller: RunningWorker

beforeAll(async () => {
  pipeline = await startPipeline()
  await pipeline.start('ingester', { ...all, INGESTER_MODE: 'firehose' })
  await pipeline.start('indexer', all)
  backfiller = await pipeline.start('backfiller', all)
}, 60_000)
afterAll(() => pipeline[Symbol.asyncDispose]())

const textOf = (text: string) => ({ text, createdAt: '2026-01-01T00:00:00.000Z' })

async function ask(did: string): Promise<void> {
  await pipeline.redis.xadd('repo_backfill', '*', ...encodeRequest({ did, reason: 'resync' }))
}

async function settled(): Promise<void> {
  await pipeline.drained('repo_backfill', 'repo_backfill_group')
  await pipeline.drained('firehose_backfill', 'firehose_group')
  await pipeline.drained('firehose_live', 'firehose_group')
}

async function rowsOf(did: string): Promise<Record<string, string>> {
  const rows = await pipeline.sql<{ uri: string; cid: string }[]>`
    select uri, cid from record where did = ${did} order by uri`
  return Object.fromEntries(rows.map(({ uri, cid }) => [uri, cid]))
}

function wanted(account: Account): Record<string, string> {
  const records = [...account.records()].sort(([a], [b]) => (a < b ? -1 : 1))
  return Object.fromEntries(records.map(([uri, { cid }]) => [uri, cid]))
}

/** An account whose rows are there, and which nobody hears of from now on. */
async function unheard(): Promise<{ account: Account; keys: string[] }> {
  const account = await pipeline.network.account()
  const written = []
  for (const number of [1, 2, 3, 4])
    written.push(await account.create(post, textOf(`post ${number}`)))
  await eventually(() => rowsOf(account.did), wanted(account))
  account.quiet = true
  return { account, keys: written.map(({ uri }) => uri.split('/').at(-1) ?? '') }
}

test('what was deleted, changed and made again while nobody listened is gone, changed and back', async () => {
  const { account, keys } = await unheard()
  const [deleted = '', changed = '', again = ''] = keys
  await account.delete(post, deleted)
  await account.update(post, changed, textOf('changed'))
  await account.delete(post, again)
  await account.create(post, textOf('back'), again)
  await account.create(post, textOf('new'))
  expect(await rowsOf(account.did)).not.toEqual(wanted(account))
  await ask(account.did)
  await eventually(() => rowsOf(account.did), wanted(account))
  expect(Object.keys(wanted(account))).toHaveLength(4)
  expect(await sluice(['verify', account.did], pipeline.environment)).toMatchObject({ code: 0 })
})

test('a backfiller killed between its chunks leaves nothing half true, and the next one ends it', async () => {
  const { account, keys } = await unheard()
  for (let number = 0; number < 30; number += 1) await account.create(post, textOf(`${number}`))
  await account.delete(post, keys[0] ?? '')
  const before = await rowsOf(account.did)
  await backfiller.stop()
  const dying = await pipeline.start('backfiller', {
    ...all,
    BACKFILLER_BATCH_SIZE: '5',
    SLUICE_CRASH_AT: 'backfiller.appended:3',
  })
  await ask(account.did)
  await eventually(async () => dying.child.signalCode, 'SIGKILL')
  await pipeline.drained('firehose_backfill', 'firehose_group')
  const between = await rowsOf(account.did)
  // Records came, each a true one; nothing went, for nobody said that this was all.
  expect(Object.keys(between).length).toBeGreaterThan(Object.keys(before).length)
  expect(between).toMatchObject(before)
  backfiller = await pipeline.start('backfiller', all)
  await eventually(() => rowsOf(account.did), wanted(account))
})

test('where a repo stands is told through its whole way, from the queue to Postgres, and out of the dead letters again', async () => {
  const { environment, network, redis } = pipeline
  const run = async (...args: string[]) => {
    const { code, out, err } = await sluice([...args, '--json'], environment)
    expect(code, err).toBe(0)
    return JSON.parse(out)
  }
  const statusOf = async ({ did }: Account) => (await run('status', '--repo', did)).state
  const [byName, byHand, lying] = [
    await network.account({ quiet: true, handle: 'by-name.test' }),
    await network.account({ quiet: true }),
    await network.account({ quiet: true }),
  ]
  for (const account of [byName, byHand, lying]) await account.create(post, textOf('here'))
  const signature = { kind: 'lie', about: 'signature' } as const
  const fault = network.pds[0].fault({ did: lying.did }, signature)

  expect(await run('backfill', 'by-name.test', lying.did)).toEqual({ requested: 2, unknown: [] })
  await redis.xadd('repo_backfill', '*', 'repo', JSON.stringify({ did: byHand.did }))
  await settled()
  for (const account of [byName, byHand]) {
    expect(await statusOf(account)).toBe(`done at ${account.rev}`)
    expect(await rowsOf(account.did)).toEqual(wanted(account))
  }
  expect(await statusOf(lying)).toBe('dead-lettered')
  expect(await rowsOf(lying.did)).toEqual({})

  fault.clear()
  const wrong = ['--reason', 'signature', '--host', network.pds[0].host, '--newer', '1h']
  expect(await run('dlq', 'list', '--counts', ...wrong)).toMatchObject([{ letters: 1 }])
  expect(await run('dlq', 'requeue', ...wrong)).toEqual({ requeued: 1, left: 0 })
  await settled()
  expect(await statusOf(lying)).toBe(`done at ${lying.rev}`)

  network.pds[0].setStatus(byHand.did, { active: false, status: 'takendown' })
  await ask(byHand.did)
  await settled()
  expect(await statusOf(byHand)).toBe('ended: takendown')
  const [actor] = await pipeline.sql`select "upstreamStatus" from actor where did = ${byHand.did}`
  expect(actor).toEqual({ upstreamStatus: 'takendown' })
})

const lifecycle = sharedJsonLines<RecordedRepo>('cars/expected.jsonl')
  .filter(({ car }) => car.includes('dnproto-lifecycle'))
  .sort((a, b) => (a.car < b.car ? -1 : 1))

test('the states of an account, served one after another, are followed; served backwards they change nothing', async () => {
  const { network, sql } = pipeline
  const [newest] = lifecycle.slice(-1) as [RecordedRepo]
  network.plc.serve(documentOf(newest), { pds: network.pds[0].url })
  const counts = async () => {
    const rows = await sql<{ collection: string; count: number }[]>`
      select split_part(uri, '/', 4) as collection, count(*)::int as count
      from record where did = ${newest.did} group by 1`
    return Object.fromEntries(rows.map(({ collection, count }) => [collection, count]))
  }
  const serve = async (state: RecordedRepo) => {
    await network.pds[0].serveCar(state.did, carOf(state))
    await ask(state.did)
    await settled()
  }
  expect(lifecycle).toHaveLength(7)
  for (const state of lifecycle) {
    await serve(state)
    expect(await counts()).toEqual(state.collections)
  }
  const rows = await rowsOf(newest.did)
  for (const state of [...lifecycle].reverse()) await serve(state)
  expect(await rowsOf(newest.did)).toEqual(rows)
  const [known] = await sql`select "snapshotRev" from repo_sync where did = ${newest.did}`
  expect(known?.['snapshotRev']).toBe(newest.rev)
})

/** Posts, edits and deletes, with the request for its own backfill somewhere in between. */
async function writeThroughBackfill(account: Account, random: Random): Promise<void> {
  const deeds = 10 + random.below(20)
  const asksAt = new Set([random.below(deeds), random.below(deeds)])
  const keys: string[] = []
  for (let deed = 0; deed < deeds; deed += 1) {
    if (asksAt.has(deed)) await ask(account.did)
    const at = random.below(Math.max(1, keys.length))
    const what =
      keys.length === 0 ? 'create' : random.pick(['create', 'create', 'update', 'delete'])
    if (what === 'create') {
      const { uri } = await account.create(post, textOf(`${deed}`))
      keys.push(uri.split('/').at(-1) ?? '')
    } else if (what === 'update') await account.update(post, keys[at] ?? '', textOf(`edit ${deed}`))
    else await account.delete(post, keys.splice(at, 1)[0] ?? '')
    await new Promise((resolve) => setTimeout(resolve, random.below(30)))
  }
}

test(`a repo that posts, edits and deletes through its own backfill loses nothing, ${times} times`, async () => {
  const random = createRandom('through backfill')
  for (let done = 0; done < times; done += 20) {
    const accounts = await Promise.all(
      Array.from({ length: Math.min(20, times - done) }, () => pipeline.network.account()),
    )
    const writing = accounts.map((account, index) =>
      writeThroughBackfill(account, random.fork(`${done + index}`)),
    )
    await Promise.all(writing)
    for (const account of accounts) {
      await eventually(() => rowsOf(account.did), wanted(account))
    }
    await settled()
    // Nothing that came later undoes it.
    for (const account of accounts) expect(await rowsOf(account.did)).toEqual(wanted(account))
  }
}, 600_000)

test('verify tells what is missing, extra and different, and --fix has it mended', async () => {
  const { account } = await unheard()
  const [missing = '', different = '', ...rest] = Object.keys(wanted(account))
  const { sql, environment } = pipeline
  await ask(account.did)
  await settled()
  const extra = `at://${account.did}/${post}/3kextraaaaaaa`
  await sql`delete from record where uri = ${missing}`
  await sql`update record set cid = 'bafyother', rev = null where uri = ${different}`
  await sql`insert into record (uri, cid, did, json, "indexedAt")
    values (${extra}, 'bafyextra', ${account.did}, '{}', '2026-01-01T00:00:00.000Z')`
  const args = ['verify', account.did, '--patience', '0', '--json']
  const { code, out } = await sluice([...args, '--fix'], environment)
  expect(code).toBe(1)
  expect(JSON.parse(out)).toMatchObject({
    state: 'differs',
    records: rest.length + 2,
    missing: [missing],
    extra: [extra],
    different: [different],
  })
  await settled()
  expect(JSON.parse((await sluice(args, environment)).out)).toMatchObject({ state: 'same' })
  pipeline.network.pds[0].setStatus(account.did, { active: false, status: 'takendown' })
  const ended = await sluice(args, environment)
  expect(JSON.parse(ended.out)).toMatchObject({ state: 'ended', reason: 'RepoTakendown' })
  expect(ended.code).toBe(0)
})

test('verify takes a sample of the accounts, or watches for ever and shows what it finds as a metric', async () => {
  await unheard()
  const { environment, sql } = pipeline
  const [{ count } = { count: 0 }] = await sql`select count(*)::int as count from actor`
  const sample = await sluice(['verify', '--sample', '100%', '--json'], environment)
  expect(sample.out.trim().split('\n').length).toBe(count)
  const args = ['verify', '--watch', '--every', '0', '--patience', '0']
  const main = fileURLToPath(new URL('../cli/main.ts', import.meta.url))
  const child = spawn(process.execPath, [main, ...args], { env: environment, stdio: 'pipe' })
  const exit = once(child, 'exit')
  const [said] = await once(child.stderr, 'data')
  const [, address] = /metrics on (\S+)/.exec(String(said)) ?? []
  await eventually(async () => {
    const page = await (await fetch(`http://${address}/metrics`)).text()
    return (
      /verify_repos_total\{state="same"\} [1-9]/.test(page) && /verify_mismatch_ratio/.test(page)
    )
  }, true)
  child.kill('SIGTERM')
  expect(await exit).toEqual([0, null])
})
