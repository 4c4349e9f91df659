import { pino } from 'pino'
import { expect, test } from 'vitest'
import { connectPostgres, inTransaction } from '../shared/postgres.ts'
import { testDatabase } from '../test/servers/postgres.ts'
import { columnar } from './write.ts'

const log = pino({ level: 'silent' })
const columns = ['key', 'text', 'list']

test.for([
  ['none', []],
  ['a single empty one', ['']],
  ['a single null', [null]],
  ['ordinary ones', ['a', '', null, '{"a":"\\"b\\\\"}', "'", '\n\t']],
  ['those that stand between and for null', ['\u001f', null, 'a\u001fb\u001e', '', '\u001e']],
] as const)('texts come to the server as they are: %s', async ([, texts]) => {
  await using database = await testDatabase({ migrated: false })
  await using sql = connectPostgres({ databaseUrl: database.url, poolSize: 1, log })
  const rows = texts.map((text, index) => ({ key: String(index), text, list: text && [text] }))
  const { relation, parameters } = columnar(columns, rows, ['list'])
  const found = await inTransaction(sql, { schema: 'bsky', statementTimeoutMs: 0 }, (sql) =>
    sql.unsafe(`select r.key, r.text, r.list from ${relation}`, parameters),
  )
  expect([...found]).toEqual(rows)
})
