import { expect, test } from 'vitest'
import { parseHost } from './host.ts'

test.each([
  ['bsky.network', 'bsky.network', 'https://bsky.network', 'wss://bsky.network'],
  ['wss://bsky.network/', 'bsky.network', 'https://bsky.network', 'wss://bsky.network'],
  ['https://bsky.network', 'bsky.network', 'https://bsky.network', 'wss://bsky.network'],
  ['ws://localhost:2470', 'localhost:2470', 'http://localhost:2470', 'ws://localhost:2470'],
  ['http://127.0.0.1:2583', '127.0.0.1:2583', 'http://127.0.0.1:2583', 'ws://127.0.0.1:2583'],
])('%s is read, with TLS unless its scheme says otherwise', (raw, name, http, ws) => {
  expect(parseHost(raw)).toEqual({ raw, name, http, ws })
})

test.each(['', 'ftp://host', 'host/path', 'user@host', 'a b', 'host?x'])('%j is no host', (raw) => {
  expect(() => parseHost(raw)).toThrow('must be a host')
})
