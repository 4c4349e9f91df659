import { spawnSync } from 'node:child_process'
import { expect, test } from 'vitest'
import { parseCrashAt } from './crash-point.ts'

/** Passes points in a process of its own and tells how that ended and how far it came. */
function pass(crashAt: string, ...calls: readonly [point: string, stream?: string][]) {
  const module = new URL('crash-point.ts', import.meta.url).href
  const lines = calls.map((call, index) => {
    const given = call.map((word) => JSON.stringify(word)).join(', ')
    return `crashPoint(${given}); console.log(${index + 1})`
  })
  const code = `import { crashPoint } from ${JSON.stringify(module)}; ${lines.join('; ')}`
  const { signal, stdout } = spawnSync(
    process.execPath,
    ['--input-type=module-typescript', '--eval', code],
    { env: { SLUICE_CRASH_AT: crashAt }, encoding: 'utf8' },
  )
  return { signal, passed: stdout.trim().split('\n').filter(Boolean).length }
}

test('nothing dies when nothing is armed', () => {
  expect(pass('', ['consumer.read'], ['consumer.applied'])).toEqual({ signal: null, passed: 2 })
})

test('the process is killed at the passing that was asked for', () => {
  const read = ['consumer.read'] as [string]
  expect(pass('consumer.read:3', read, ['consumer.applied'], read, read, read)).toEqual({
    signal: 'SIGKILL',
    passed: 3,
  })
})

test('a point of one stream is not passed on another', () => {
  const calls: [string, string][] = [
    ['consumer.read', 'label_live'],
    ['consumer.read', 'firehose_live'],
  ]
  expect(pass('consumer.read@firehose_live', ...calls)).toEqual({ signal: 'SIGKILL', passed: 1 })
})

test.each(['consumer.red', 'toString', '@firehose_live', ':2'])('%s names no point', (text) => {
  expect(() => parseCrashAt(text)).toThrow(RangeError)
})
