/** What holds of every command of `sluice`, also of those that come later. */
import { Command } from 'commander'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type TestDatabase, testDatabase } from '../test/servers/postgres.ts'
import { ownRedis, type TestRedis, testRedis } from '../test/servers/redis.ts'
import type { Context } from './command.ts'
import { createOutput } from './output.ts'
import { commands, StoppedError } from './sluice.ts'
import { type Run, sluice as runSluice } from './testing.ts'

/** A command line without its name: `dlq list`. */
type Leaf = string

const never = new AbortController().signal
const nowhere = 'http://127.0.0.1:1'
const did = 'did:plc:z72i7hdynmk6r22z27h6tvur'

/** Of each command a line whose result is JSON on servers that hold nothing; null where it never ends by itself. */
const onEmptyServers: Readonly<Record<Leaf, string | null>> = {
  backfill: `backfill ${did}`,
  collections: 'collections',
  'config check': 'config check ingester indexer backfiller migrate',
  'dlq list': 'dlq list --counts',
  'dlq show': 'dlq show 1-1 --stream repo_backfill_dlq',
  'dlq requeue': 'dlq requeue --all --reason none',
  'dlq drop': 'dlq drop --all --reason none',
  doctor: 'doctor',
  gaps: 'gaps',
  // Its directory is away: cli/identities.test.ts reads one.
  'identities warm': null,
  migrate: 'migrate --status',
  resume: 'resume --from-postgres',
  status: 'status',
  verify: `verify ${did}`,
}

/** Needs no server, and so works without any. */
const serverless: readonly Leaf[] = ['collections', 'config check']

let redis: TestRedis
let database: TestDatabase
beforeAll(async () => {
  redis = await testRedis()
  database = await testDatabase()
  await redis.redis.xadd('repo_backfill_dlq', '1-1', 'repo', '{}', 'error', 'a\u202eb\u009b31m')
})
afterAll(async () => {
  await redis[Symbol.asyncDispose]()
  await database[Symbol.asyncDispose]()
})

/** Runs a line with servers that are there or with none. */
function sluice(line: string, more: Record<string, string | undefined>): Promise<Run> {
  const env = { PLC_URL: nowhere, INGESTER_RELAY_HOSTS: nowhere, ...names, ...more }
  return runSluice(
    line.split(' ').filter((word) => word !== ''),
    env,
  )
}

const names = { INDEXER_CONSUMER: 'one', BACKFILLER_CONSUMER: 'one' }
const there = () => ({
  REDIS_URL: redis.url,
  DATABASE_URL: database.url,
  DB_SCHEMA: database.schema,
})
const away = {
  REDIS_URL: 'redis://127.0.0.1:1',
  DATABASE_URL: 'postgres://someone:hunter2@127.0.0.1:1/none',
}

/** The commands as their table has them, with their subcommands. */
async function leaves(): Promise<Leaf[]> {
  const found: Leaf[] = []
  const walk = (command: Command, path: readonly string[]) => {
    const inner = command.commands.filter((one) => one.name() !== 'help')
    if (inner.length === 0) found.push(path.join(' '))
    for (const one of inner) walk(one, [...path, one.name()])
  }
  for (const { load } of Object.values(commands)) {
    const program = new Command()
    const sink = { write: () => {} }
    const context = { out: createOutput(sink, sink), env: {}, signal: never } as unknown as Context
    const { register } = await load()
    register(program, context)
    walk(program, [])
  }
  return found.sort()
}

const all = await leaves()

test('every command is in the table of this file, and every line of it is a command', () => {
  expect(Object.keys(onEmptyServers).sort()).toEqual(all)
})

const hasStack = /^\s+at /m

describe.each(all)('sluice %s', (leaf) => {
  test('has help with examples, exit codes and --json', async () => {
    const { code, out, err } = await sluice(`${leaf} --help`, {})
    expect([code, err]).toEqual([0, ''])
    expect(out).toContain(`Usage: sluice ${leaf}`)
    expect(examplesIn(out).length).toBeGreaterThan(0)
    for (const line of examplesIn(out)) expect(line).toContain(`sluice ${leaf}`)
    expect(out).toContain('Exit codes: 0 ')
    expect(out).toContain('--json')
  })

  test('takes an option that it does not have for a mistake', async () => {
    const { code, out, err } = await sluice(`${leaf} --no-such-option`, {})
    expect([code, out]).toEqual([2, ''])
    expect(err).toContain("unknown option '--no-such-option'")
    expect(err).not.toMatch(hasStack)
  })

  test('takes every example of its help, and tells of servers that are away in a line', async () => {
    const { out: help } = await sluice(`${leaf} --help`, {})
    for (const example of examplesIn(help)) {
      const line = (example.split(' | ')[0] ?? '').replace('sluice ', '')
      const { code, err } = await sluice(line, away)
      expect([line, code]).toEqual([line, serverless.includes(leaf) ? 0 : 1])
      expect(err).not.toMatch(hasStack)
      expect(err).not.toContain('hunter2')
      if (!serverless.includes(leaf)) expect(err.trimEnd().split('\n').at(-1), line).toMatch(/./)
    }
  })

  test('prints nothing but JSON with --json, and no character that moves a cursor', async () => {
    const line = onEmptyServers[leaf]
    if (line === null) return
    const { code, out, err } = await sluice(`${line} --json`, there())
    expect([0, 1], err).toContain(code)
    const documents = out.trimEnd().split('\n')
    for (const document of documents) expect(() => JSON.parse(document)).not.toThrow()
    expect(documents.length).toBe(1)
    expect(out.trimEnd()).not.toMatch(/[\p{Cc}\u202a-\u202e\u2066-\u2069]/u)
  })

  test('says all that is missing of its settings at once', async () => {
    if (serverless.includes(leaf)) return
    const line = onEmptyServers[leaf] ?? leaf
    const { code, err } = await sluice(line, { LOG_LEVEL: 'loud' })
    expect(code).toBe(2)
    expect(err).toMatch(/^ {2}- LOG_LEVEL/m)
    expect(err).toMatch(/^ {2}- (REDIS_URL|DATABASE_URL)/m)
    expect(err).not.toMatch(hasStack)
  })
})

function examplesIn(help: string): string[] {
  return [...help.matchAll(/^ {2}\$ (.+)$/gm)].map(([, line = '']) => line)
}

describe('a mistake is told in a line that says what to do, with exit code 2:', () => {
  const oneLine = async (line: string, env: Record<string, string>, words: readonly string[]) => {
    const { code, out, err } = await sluice(line, { ...there(), ...env })
    expect([code, out]).toEqual([2, ''])
    expect(err.trimEnd().split('\n')).toHaveLength(1)
    for (const word of words) expect(err).toContain(word)
  }
  const at = (url: string, change: (url: URL) => void) => {
    const changed = new URL(url)
    change(changed)
    return changed.href
  }

  test('a wrong password of Redis, or none', async () => {
    await using own = await ownRedis()
    const client = new Redis(own.url)
    await client.config('SET', 'requirepass', 'right')
    client.disconnect()
    await oneLine('gaps', { REDIS_URL: own.url }, ['NOAUTH', 'REDIS_URL'])
    const REDIS_URL = at(own.url, (url) => {
      url.password = 'wrong'
    })
    await oneLine('gaps', { REDIS_URL }, ['WRONGPASS', 'REDIS_URL'])
  })

  test.each([
    'resume --from-postgres',
    'doctor',
    'migrate',
    `verify ${did}`,
    `status --repo ${did}`,
  ])('a wrong password of Postgres, or a database that is not there: %s', async (line) => {
    const password = at(database.url, (url) => {
      url.password = 'hunter2'
    })
    await oneLine(line, { DATABASE_URL: password }, ['password', 'DATABASE_URL'])
    const name = at(database.url, (url) => {
      url.pathname = '/nowhere'
    })
    await oneLine(line, { DATABASE_URL: name }, ['"nowhere" does not exist', 'DATABASE_URL'])
  })

  test.each(['resume --from-postgres', 'doctor', `status --repo ${did}`, 'verify --sample 100%'])(
    'a schema without our tables: %s',
    async (line) => {
      await oneLine(line, { DB_SCHEMA: 'elsewhere' }, ['sluice migrate'])
    },
  )

  test.each([
    ['dlq list --stream firehose_liv_dlq', 'firehose_live_dlq'],
    ['dlq drop 1', 'not 1'],
    ['dlq requeue 7-7', 'no letter 7-7'],
    ['dlq drop', '--all'],
    ['dlq list --newer soon', '7d'],
    ['backfill', '--file'],
    ['backfill nobody', 'neither a DID nor a handle'],
    ['verify alice.test', 'no DID'],
    ['verify', '--sample'],
    ['resume', '--from-postgres'],
    ['doctor --since yesterday', '--since'],
    ['config check idexer', 'ingester'],
    ['status --repo x', 'neither a DID nor a handle'],
    ['identities warm --from never', '--from'],
  ])('%s', async (line, word) => {
    await oneLine(line, {}, [word])
  })
})

test.each(all.filter((leaf) => !serverless.includes(leaf)))(
  'a stop is told in a line, and is no success: %s',
  async (leaf) => {
    if (leaf === 'migrate') return // it ends with the migration that it has begun
    const stopped = AbortSignal.abort(new StoppedError('stopped before its end'))
    const line = (onEmptyServers[leaf] ?? leaf).split(' ')
    const { code, err } = await runSluice(line, { ...names, ...there(), PLC_URL: nowhere }, stopped)
    expect([code, err]).toEqual([1, expect.stringMatching(/^sluice: stopped before its end\n$/m)])
  },
)

test('help of a command is the same by either way', async () => {
  const { out } = await sluice('help status', {})
  expect(out).toBe((await sluice('status --help', {})).out)
  expect((await sluice('help', {})).out).toBe((await sluice('--help', {})).out)
})

test('letters of two streams with one id are told apart before anything is done', async () => {
  const { redis: client } = redis
  await client.xadd('firehose_live_dlq', '5-5', 'event', '{}')
  await client.xadd('label_live_dlq', '5-5', 'event', '{}')
  const { code, err } = await sluice('dlq drop 5-5', there())
  expect([code, err]).toEqual([2, expect.stringContaining('--stream')])
  expect(await client.xlen('firehose_live_dlq')).toBe(1)
  await sluice('dlq drop 5-5 --stream label_live_dlq', there())
  expect([await client.xlen('firehose_live_dlq'), await client.xlen('label_live_dlq')]).toEqual([
    1, 0,
  ])
})

test('colours are for a terminal that has them, and nobody else', async () => {
  const rows = [{ state: 'open', host: 'a\u009b31m' }]
  const drawn = (terminal: object) => {
    const written: string[] = []
    createOutput({ write: (text) => written.push(text), ...terminal }, { write: () => {} }).rows(
      rows,
      '',
    )
    return written.join('')
  }
  const colour = '\u001b['
  expect(drawn({ isTTY: true, hasColors: () => true })).toContain(colour)
  expect(drawn({ isTTY: true, hasColors: () => true })).toContain('a\\u009b31m')
  // So a terminal says of itself where NO_COLOR is set.
  expect(drawn({ isTTY: true, hasColors: () => false })).not.toContain(colour)
  expect(drawn({ isTTY: false, hasColors: () => true })).not.toContain(colour)
  expect(drawn({})).not.toContain(colour)
})
