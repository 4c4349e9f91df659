/** What becomes of a failure: one function decides, and every loop obeys it. */

/** An entry that can't be read as an event, whoever reads it. */
export class InvalidEventError extends Error {
  override readonly name = 'InvalidEventError'
}

/**
 * `retry`: the surroundings failed, the same work will succeed later. `reject`: this very entry is
 * at fault. `crash`: anything else; the process ends and the entry stays pending.
 */
export type Verdict = 'retry' | 'reject' | 'crash'

/** Classes of SQLSTATE whose failures pass: connection, rollback, resources, operator, system. */
const retrySqlClasses = new Set(['08', '40', '53', '55', '57', '58'])
/** Classes of SQLSTATE that the data caused: data exception, integrity, program limit. */
const rejectSqlClasses = new Set(['22', '23', '54'])

const retryCodes = new Set([
  // node: sockets and names
  'ECONNREFUSED',
  'ECONNRESET',
  'ECONNABORTED',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENETDOWN',
  'ENOTFOUND',
  'EAI_AGAIN',
  // postgres.js
  'CONNECT_TIMEOUT',
  'CONNECTION_CLOSED',
  'CONNECTION_DESTROYED',
  'CONNECTION_ENDED',
  // undici, which is fetch
  'UND_ERR_CONNECT_TIMEOUT',
  'UND_ERR_HEADERS_TIMEOUT',
  'UND_ERR_BODY_TIMEOUT',
  'UND_ERR_SOCKET',
])

/** The leading word of a Redis reply error, which is its code. */
const retryRedisCodes = new Set([
  'OOM',
  'LOADING',
  'BUSY',
  'READONLY',
  'MASTERDOWN',
  'TRYAGAIN',
  'CLUSTERDOWN',
  'NOREPLICAS',
  'MISCONF',
  'UNBLOCKED',
])

/** ioredis gives these no code; their names are its interface. */
const retryNames = new Set(['MaxRetriesPerRequestError', 'AbortError', 'ConnectionClosedError'])

/** Decides what becomes of a failure, by class and code, never by message. */
export function verdict(error: unknown): Verdict {
  for (const cause of causes(error)) {
    if (cause instanceof InvalidEventError) return 'reject'
    const code = codeOf(cause)
    if (code === undefined) {
      if (retryNames.has(nameOf(cause))) return 'retry'
      continue
    }
    if (retryCodes.has(code) || retryRedisCodes.has(code)) return 'retry'
    if (!isSqlState(code)) continue
    if (retrySqlClasses.has(code.slice(0, 2))) return 'retry'
    if (rejectSqlClasses.has(code.slice(0, 2))) return 'reject'
  }
  return 'crash'
}

/** Whether the failure may come from the size of the batch, so that half of it is tried next. */
export function halves(error: unknown): boolean {
  return causes(error).some((cause) => ['57014', '53200'].includes(codeOf(cause) ?? ''))
}

/** A failure in one line, without stack and without credentials. */
export function errorText(error: unknown): string {
  const chain = causes(error).map((cause) =>
    cause instanceof Error ? cause.message || nameOf(cause) : String(cause),
  )
  return withoutCredentials([...new Set(chain)].join(': ').replaceAll(/\s+/g, ' ')).slice(0, 2_000)
}

/** A failure as fields of a log line. */
export function errorFields(error: unknown): Record<string, unknown> {
  const code = causes(error)
    .map(codeOf)
    .find((found) => found !== undefined)
  const stack = error instanceof Error ? error.stack : undefined
  return {
    type: nameOf(error),
    message: errorText(error),
    ...(code === undefined ? {} : { code }),
    ...(stack === undefined ? {} : { stack: withoutCredentials(stack) }),
  }
}

/** Takes the user and passwords out of every URL in a text. */
export function withoutCredentials(value: string): string {
  return value
    .replaceAll(/([a-z][a-z0-9+.-]*:\/\/)[^\s/?#"'@]*@/gi, '$1***@')
    .replaceAll(/([?&]\w*password=)[^\s&#"']*/gi, '$1***')
}

function causes(error: unknown): unknown[] {
  const chain: unknown[] = []
  let next = error
  while (next !== undefined && next !== null && chain.length < 8 && !chain.includes(next)) {
    chain.push(next)
    if (next instanceof AggregateError) chain.push(...next.errors.slice(0, 8))
    next = next instanceof Error ? next.cause : undefined
  }
  return chain
}

function codeOf(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null) return undefined
  if ('code' in error && typeof error.code === 'string') return error.code
  if (nameOf(error) === 'ReplyError' && error instanceof Error)
    return error.message.split(' ', 1)[0]
  return undefined
}

function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : typeof error
}

function isSqlState(code: string): boolean {
  return /^[0-9A-Z]{5}$/.test(code)
}
