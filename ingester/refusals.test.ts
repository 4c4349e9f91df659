import { expect, test } from 'vitest'
import { createLog } from '../shared/log.ts'
import { createRefusals } from './refusals.ts'

function aHost() {
  const lines: { level: string; reason: string; count?: number; share?: number }[] = []
  const log = createLog('ingester', 'info', { write: (line) => void lines.push(JSON.parse(line)) })
  let now = 0
  const refusals = createRefusals(log, () => now)
  return {
    lines,
    pass: (ms: number) => {
      now += ms
    },
    messages: (count: number, refusedEvery: number, reason = 'signature') => {
      for (let number = 1; number <= count; number += 1) {
        if (number % refusedEvery === 0) refusals.refused(reason, { seq: number })
        else refusals.taken()
      }
    },
    warnings: () => lines.filter(({ level }) => level === 'warn'),
  }
}

test('of each reason one refusal in a while is in the log, with how many there were', () => {
  const host = aHost()
  host.messages(400, 2)
  host.messages(10, 10, 'tree')
  host.pass(10_000)
  host.messages(2, 2)
  expect(host.lines.map(({ reason, count }) => [reason, count])).toEqual([
    ['signature', 1],
    ['tree', 1],
    ['signature', 200],
  ])
})

test('many refusals are one warning with the reason, until they have been few again', () => {
  const host = aHost()
  host.messages(1_000, 100)
  expect(host.warnings()).toEqual([])
  host.messages(3_000, 10)
  expect(host.warnings()).toMatchObject([{ share: 0.1, reason: 'signature' }])
  host.messages(1_000, 100)
  host.messages(1_000, 5, 'tree')
  expect(host.warnings()).toMatchObject([{ reason: 'signature' }, { share: 0.2, reason: 'tree' }])
})

test('a host that sends little is judged after a minute', () => {
  const host = aHost()
  host.messages(60, 2)
  expect(host.warnings()).toEqual([])
  host.pass(60_000)
  host.messages(2, 2)
  expect(host.warnings()).toHaveLength(1)
})
