import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { createOutput, visible } from './output.ts'

const main = fileURLToPath(new URL('./main.ts', import.meta.url))

interface Run {
  code: number
  out: string
  err: string
}

const sluice = (args: readonly string[], env: Record<string, string> = {}) =>
  run([main, ...args], env)

function run(args: readonly string[], env: Record<string, string>): Promise<Run> {
  return new Promise((resolve) => {
    execFile(process.execPath, [...args], { env }, (error, out, err) => {
      resolve({ code: error === null ? 0 : Number(error.code), out, err })
    })
  })
}

function sink() {
  const written: string[] = []
  return { written, write: (text: string) => written.push(text) }
}

test('help names every command, and ends with 0', async () => {
  const { code, out } = await sluice(['--help'])
  expect(code).toBe(0)
  for (const name of ['ingester', 'indexer', 'backfiller', 'migrate']) expect(out).toContain(name)
})

test('a command that is not there is a mistake of the user: one line, and exit code 2', async () => {
  const { code, err } = await sluice(['migrat'])
  expect(code).toBe(2)
  expect(err).toContain("unknown command 'migrat'")
  expect(err).not.toContain('    at ')
})

test('missing settings are all told at once, without a stack trace', async () => {
  const { code, err } = await sluice(['migrate'], { LOG_LEVEL: 'loud' })
  expect(code).toBe(2)
  expect(err).toMatch(/^ {2}- LOG_LEVEL/m)
  expect(err).toMatch(/^ {2}- DATABASE_URL/m)
  expect(err).not.toContain('    at ')
})

test('options that exclude each other are a mistake of the user', async () => {
  const { code, err } = await sluice(['migrate', '--status', '--adopt'])
  expect(code).toBe(2)
  expect(err).toContain('--adopt')
})

test('a worker is started by its name', async () => {
  const { code, err } = await sluice(['indexer'])
  expect(code).toBe(2)
  expect(err).toContain('INDEXER_CONSUMER')
})

test('settings are checked without starting anything, and credentials are not shown', async () => {
  const env = { REDIS_URL: 'redis://:hunter2@redis', INGESTER_BATCH_SIZE: '7' }
  const { code, out } = await sluice(['config', 'check', 'ingester', '--json'], env)
  expect(code).toBe(0)
  const rows = JSON.parse(out) as { name: string; value: string }[]
  expect(rows).toContainEqual({ worker: 'ingester', name: 'INGESTER_BATCH_SIZE', value: '7' })
  expect(rows).toContainEqual({ worker: 'ingester', name: 'REDIS_URL', value: 'set' })
  expect(out).not.toContain('hunter2')
  const wrong = await sluice(['config', 'check', 'indexer'], env)
  expect(wrong.code).toBe(2)
  expect(wrong.err).toMatch(/^ {2}- indexer: DATABASE_URL is not set/m)
})

test('a server that is away is told without a stack trace, with exit code 1', async () => {
  const env = { DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none' }
  const { code, err } = await sluice(['migrate', '--status'], env)
  expect(code).toBe(1)
  expect(err).toContain('ECONNREFUSED')
  expect(err).not.toContain('    at ')
})

test('foreign text can not move the cursor, change colours or turn the line around', () => {
  expect(visible('a\u001b[31mb\u0007\u202ec\u009b')).toBe('a\\u001b[31mb\\u0007\\u202ec\\u009b')
})

test('rows stand in columns; as JSON they are one array', () => {
  const out = sink()
  const output = createOutput(out, sink())
  const rows = [
    { reason: 'poison', count: 7 },
    { reason: 'no-host\n', count: 12 },
  ]
  output.rows(rows, 'none')
  expect(out.written.join('')).toBe(
    'reason         count\npoison             7\nno-host\\u000a     12\n',
  )
  output.json()
  output.rows(rows, 'none')
  expect(JSON.parse(out.written.at(-1) ?? '')).toEqual(rows)
})

test('without rows it says so; as JSON it is an empty array', () => {
  const out = sink()
  const output = createOutput(out, sink())
  output.rows([], 'there are no dead letters')
  output.json()
  output.rows([], 'there are no dead letters')
  expect(out.written).toEqual(['there are no dead letters\n', '[]\n'])
})

test('progress without a terminal is a line at its end, not a moving bar', () => {
  const err = sink()
  {
    using progress = createOutput(sink(), err).progress('repos')
    for (let done = 1; done <= 50; done += 1) progress.at(done, 100)
  }
  expect(err.written).toHaveLength(1)
  expect(err.written[0]).toContain('50 of 100')
})

test.each([
  [['collections', '--json'], 0],
  [['status'], 1],
  [['doctor'], 1],
])('a read-only install is enough: %j writes no file', async (args, expected) => {
  const env = { REDIS_URL: 'redis://127.0.0.1:1', DATABASE_URL: 'postgres://x@127.0.0.1:1/none' }
  // Whoever writes a file is refused with a stack trace.
  const { code, err } = await run(['--permission', '--allow-fs-read=*', main, ...args], env)
  expect(err).not.toContain('ERR_ACCESS_DENIED')
  expect(code).toBe(expected)
})

test('a reader that leaves early, as head does, ends the command without a word', async () => {
  const child = spawn(process.execPath, [main, 'collections'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  child.stdout.destroy()
  let err = ''
  child.stderr.on('data', (data) => {
    err += String(data)
  })
  await once(child, 'close')
  expect(err).toBe('')
})
