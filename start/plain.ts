/** Lines for people: what a worker's log says, errors and numbers in words. Pure. */

const shownLevels = new Set(['warn', 'error', 'fatal'])
const hiddenFields = new Set(['level', 'time', 'pid', 'hostname', 'service', 'msg', 'err'])
const maxFieldLength = 120

// The stack of a crash is in the worker's log file; here its first line is enough. A list of
// problems is no stack.
const stackLine = /^(\s+[^\s-]|\s*$|node:|file:|\}|Node\.js v)/

/** What to show of one line that a worker printed: warnings and worse, and what is no log line. */
export function plainLine(line: string): string | null {
  const entry = logEntry(line)
  if (entry === null) return stackLine.test(line) ? null : line
  if (!shownLevels.has(String(entry['level']))) return null
  const fields = Object.entries(entry)
    .filter(([name]) => !hiddenFields.has(name))
    .map(([name, value]) => `${name} ${short(value)}`)
  const reason = entry['err'] === undefined ? [] : [inWords(errorOf(entry['err']))]
  const rest = [...fields, ...reason].join(', ')
  return rest === '' ? String(entry['msg']) : `${entry['msg']} (${rest})`
}

function logEntry(line: string): Record<string, unknown> | null {
  if (!line.startsWith('{')) return null
  try {
    return JSON.parse(line) as Record<string, unknown>
  } catch {
    return null
  }
}

function errorOf(err: unknown): string {
  if (typeof err !== 'object' || err === null) return String(err)
  const { message, code } = err as { message?: unknown; code?: unknown }
  const text = typeof message === 'string' ? message : ''
  return typeof code === 'string' && !text.includes(code) ? `${text} ${code}`.trim() : text
}

function short(value: unknown): string {
  const text = typeof value === 'string' ? value : JSON.stringify(value)
  return text.length > maxFieldLength ? `${text.slice(0, maxFieldLength)}…` : text
}

const causes: Readonly<Record<string, string>> = {
  ENOTFOUND: 'its name is not known',
  EAI_AGAIN: 'no name server answers: is this machine online?',
  ECONNREFUSED: 'nothing listens there',
  ECONNRESET: 'it closed the connection',
  ETIMEDOUT: 'it does not answer',
  EHOSTUNREACH: 'there is no way to it',
  ENETUNREACH: 'this machine is not online',
}

/** The text with what its socket error code means behind it. */
export function inWords(text: string): string {
  const code = Object.keys(causes).find((name) => text.includes(name))
  return code === undefined ? text : `${text}: ${causes[code]}`
}

/** A number with its thousands parted. */
export function grouped(value: number): string {
  return Math.round(value).toLocaleString('en-GB')
}
