/** The Postgres client library, with three faults of its 3.4.9 mended, and a round trip spared, as it is loaded. */
import { createRequire, registerHooks } from 'node:module'
import { pathToFileURL } from 'node:url'
import type postgres from 'postgres'

/** The OID of `text[]`. */
const textArray = 1009

/**
 * What the library does when a connection ends in the middle of a transaction, of which the rollback
 * is then still to be sent (porsager/postgres#1066, #1154, #1208):
 * 1. it keeps what waited for the next turn and its timer, so that this place in the pool never
 *    sends again;
 * 2. after a reset it keeps who waited for an answer, and gives him that to the next one's query:
 *    every query given to this place then hangs;
 * 3. it writes to a socket that is no more, from a timer: nobody can catch that, the process ends.
 * Mended, whoever waits hears that the connection is closed.
 *
 * Kept on the server is a statement that asks for it, and no other. What the library does with one that is not: it asks for the types of the parameters first, waits
 * for the answer, and sends no other statement meanwhile. Only what is to be written as JSON needs that answer; text is
 * sent as it is, and an array of texts is one.
 */
const repairs: readonly (readonly [found: string, mended: string])[] = [
  [
    'clearImmediate(nextWriteTimer)\n    socket.removeListener',
    'clearImmediate(nextWriteTimer)\n    chunk = nextWriteTimer = null\n    socket.removeListener',
  ],
  ['!hadError && (query || sent.length) && error(', 'if (query || sent.length) error('],
  ["('prepare' in q.options ? q.options.prepare : true)", 'q.options.prepare === true'],
  [
    'q.describeFirst = q.onlyDescribe || (parameters.length && !q.prepared)',
    `parameters.forEach((x, i) => {
      if (!types[i] && Array.isArray(x) && x.every(text => typeof text === 'string')) types[i] = ${textArray}
    })
    q.describeFirst = q.onlyDescribe || (!q.prepared
      && parameters.some((x, i) => !types[i] && typeof x === 'object' && x !== null))`,
  ],
  [
    'function nextWrite(fn) {\n',
    `function nextWrite(fn) {
    if (!socket) {
      chunk = nextWriteTimer = null
      const closing = Errors.connection('CONNECTION_CLOSED', options)
      query && queryError(query, closing)
      while (sent.length) queryError(sent.shift(), closing)
      return true
    }
`,
  ],
]

/** Marks our copy: whoever imports the library itself first must not decide which one we get. */
const ours = '?mended'

function mend(source: string): string {
  let mended = source
  for (const [found, replacement] of repairs) {
    if (mended.split(found).length !== 2) {
      throw new Error('the Postgres client library has changed: see whether it still needs mending')
    }
    mended = mended.replace(found, replacement)
  }
  return mended
}

const hooks = registerHooks({
  resolve(specifier, context, next) {
    const found = next(specifier, context)
    const inside = context.parentURL?.endsWith(ours) && specifier.startsWith('.')
    return inside ? { ...found, url: found.url + ours } : found
  },
  load(url, context, next) {
    const loaded = next(url, context)
    if (!url.endsWith(`/src/connection.js${ours}`)) return loaded
    const source = Buffer.from((loaded.source ?? '') as Uint8Array).toString()
    return { ...loaded, source: mend(source) }
  },
})

// What `require` would get is the same library in another form, two folders below.
const other = createRequire(import.meta.url).resolve('postgres')
const entry = new URL(`../../src/index.js${ours}`, pathToFileURL(other))
const library: { default: typeof postgres } = await import(entry.href)
export const driver = library.default
hooks.deregister()
