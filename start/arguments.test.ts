/** What may be written behind `npm start --`. */
import { expect, test } from 'vitest'
import { ArgumentError, readArguments } from './arguments.ts'

const did = 'did:plc:ewvi7nxzyoun6zhxrhs64oiz'
const otherDid = 'did:web:example.com'

test('without arguments the defaults hold', () => {
  expect(readArguments([])).toEqual({
    relays: null,
    backfill: [],
    data: null,
    simulated: false,
    demo: false,
    plain: false,
    help: false,
  })
})

test('relays are named with or without scheme and port, one by one or with commas', () => {
  const args = ['--relay', 'relay.example', '--relay=ws://127.0.0.1:2470,localhost:1']
  expect(readArguments(args).relays).toEqual([
    'relay.example',
    'ws://127.0.0.1:2470',
    'localhost:1',
  ])
})

test('repos to fetch follow one --backfill or several, each once', () => {
  expect(readArguments(['--backfill', did, otherDid]).backfill).toEqual([did, otherDid])
  const args = ['--backfill', did, '--backfill', `${otherDid},${did}`]
  expect(readArguments(args).backfill).toEqual([did, otherDid])
})

test('--plain changes nothing but the look', () => {
  expect(readArguments(['--plain'])).toEqual({ ...readArguments([]), plain: true })
})

test('the demo runs on a simulated network', () => {
  expect(readArguments(['--demo'])).toMatchObject({ demo: true, simulated: true })
})

test('all problems come in one message', () => {
  const args = ['--what', '--simulated=yes', '--backfill', 'alice', '--data', '', '--relay']
  const problems = [
    '--what is not an option',
    '--relay needs a value',
    '--simulated takes no value',
    '--backfill: "alice" is not a DID',
    '--data needs a value',
  ]
  expect(() => readArguments(args)).toThrow(ArgumentError)
  for (const problem of problems) expect(() => readArguments(args)).toThrow(problem)
})

test.for([
  [['--relay', 'ftp://relay.example'], '--relay: "ftp://relay.example" is not a host'],
  [['--relay', 'a b:c:d'], 'is not a host'],
  [['relay.example'], '"relay.example" is not understood'],
  [['--simulated', '--relay', 'relay.example'], '--simulated and --relay exclude each other'],
  [['--demo', '--relay', 'relay.example'], '--demo and --relay exclude each other'],
] as const)('%j is refused', ([args, problem]) => {
  expect(() => readArguments(args)).toThrow(problem)
})
