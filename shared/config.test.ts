import { mkdtempDisposable, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import {
  ConfigError,
  count,
  flag,
  list,
  natural,
  oneOf,
  optional,
  port,
  ratio,
  readConfig,
  redisOptions,
  text,
  url,
  workerOptions,
} from './config.ts'

const options = {
  name: { env: 'SLUICE_NAME', parse: text, doc: 'A name.' },
  size: { env: 'SLUICE_SIZE', aliases: ['OLD_SIZE'], parse: count, default: '5', doc: 'A size.' },
  password: { env: 'SLUICE_PASSWORD', parse: count, default: '1', doc: 'A secret.', secret: true },
} as const

test('a table of options gives typed values, with defaults where nothing is set', () => {
  const config = readConfig(options, { SLUICE_NAME: 'a' })
  expect(config).toEqual({ name: 'a', size: 5, password: 1 })
})

test('an older name is read when the current one is not set, and loses when it is', () => {
  expect(readConfig(options, { SLUICE_NAME: 'a', OLD_SIZE: '7' }).size).toBe(7)
  expect(readConfig(options, { SLUICE_NAME: 'a', OLD_SIZE: '7', SLUICE_SIZE: '8' }).size).toBe(8)
})

test('all problems come in one message, each naming the variable and what is expected', () => {
  const read = () => readConfig(options, { OLD_SIZE: 'many', SLUICE_PASSWORD: 'hunter2' })
  expect(read).toThrow(ConfigError)
  expect(read).toThrow(
    /SLUICE_NAME is not set: A name\.[\s\S]*OLD_SIZE: "many" must be a whole number/,
  )
})

test('a secret is never part of the message', () => {
  const read = () => readConfig(options, { SLUICE_NAME: 'a', SLUICE_PASSWORD: 'hunter2' })
  expect(read).toThrow(/SLUICE_PASSWORD: its value must be/)
  expect(read).not.toThrow(/hunter2/)
})

test('a credential may come from a file, and its own variable wins', async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), 'sluice-config-'))
  const file = join(folder.path, 'password')
  await writeFile(file, '12\n')
  const env = { SLUICE_NAME: 'a', SLUICE_PASSWORD_FILE: file }
  expect(readConfig(options, env).password).toBe(12)
  expect(readConfig(options, { ...env, SLUICE_PASSWORD: '13' }).password).toBe(13)
  await writeFile(file, 'hunter2')
  expect(() => readConfig(options, env)).toThrow(/SLUICE_PASSWORD_FILE: its value must be/)
  expect(() => readConfig(options, env)).not.toThrow(/hunter2/)
})

test('a file that can not be read is one problem among the others; only credentials have files', () => {
  const env = { SLUICE_PASSWORD_FILE: '/nowhere/at/all', SLUICE_SIZE_FILE: '/nowhere/either' }
  const read = () => readConfig(options, env)
  expect(read).toThrow(/SLUICE_NAME is not set[\s\S]*SLUICE_PASSWORD_FILE: the file can't be read/)
  expect(read).not.toThrow(/SLUICE_SIZE_FILE/)
})

test('an empty variable counts as not set, as docker compose passes it', () => {
  expect(readConfig(options, { SLUICE_NAME: 'a', SLUICE_SIZE: '' }).size).toBe(5)
})

test.each([
  ['a count', count, '12', 12, ['0', '-1', '1.5', 'x', '1e3', '']],
  ['a natural number', natural, '0', 0, ['-1', ' 1']],
  ['a port', port, '0', 0, ['65536']],
  ['a ratio', ratio, '0.8', 0.8, ['0', '1.1', 'x']],
  ['a flag', flag, 'true', true, ['yes', 'TRUE']],
  ['a list', list, ' a, b,,c ', ['a', 'b', 'c'], []],
  ['a word', oneOf('all', 'live'), 'live', 'live', ['dead']],
  ['a url', url('http:'), 'http://a/', 'http://a/', ['a', 'ftp://a']],
  ['an optional count', optional(count), '', null, ['x']],
])('%s accepts what it means and refuses the rest', (_name, parse, good, value, bad) => {
  expect(parse(good)).toEqual(value)
  for (const wrong of bad) expect(() => parse(wrong)).toThrow()
})

test('the Redis URL takes the host:port that older workers had', () => {
  const config = readConfig(redisOptions, { REDIS_HOST: 'redis:6379' })
  expect(config.redisUrl).toBe('redis://redis:6379')
})

test.each(['s1:26379,s2:26379,s3', 's1'])('the Redis URL takes the sentinels %s', (sentinels) => {
  const REDIS_URL = `redis://:pw@streams?sentinels=${sentinels}`
  expect(readConfig(redisOptions, { REDIS_URL }).redisUrl).toBe(REDIS_URL)
})

test.each(['', 's1,', 's1:port', 's1 s2'])(
  'the Redis URL refuses the sentinels "%s"',
  (sentinels) => {
    const REDIS_URL = `redis://:pw@streams?sentinels=${sentinels}`
    expect(() => readConfig(redisOptions, { REDIS_URL })).toThrow(/name its sentinels as host:port/)
  },
)

test('the log level takes the plain level of a RUST_LOG filter', () => {
  const level = (value: string) => readConfig(workerOptions, { RUST_LOG: value }).logLevel
  expect([level('debug'), level('rsky_indexer=debug,warn'), level('rsky=trace')]).toEqual([
    'debug',
    'warn',
    'info',
  ])
})
