/** The one choke point for text that Postgres can't hold: NUL, and surrogates without a partner. */

// What JSON.stringify writes for them; an escaped backslash before it only costs a closer look.
const suspicious = /\\u0000|\\ud[89a-f]/i

/** The text without NUL, each lone surrogate replaced by U+FFFD. */
export function cleanText(text: string): string {
  const whole = text.isWellFormed() ? text : text.toWellFormed()
  return whole.includes('\0') ? whole.replaceAll('\0', '') : whole
}

/** A JSON value and its text, both as Postgres can hold them; `altered` when something had to go. */
export interface Clean<T> {
  value: T
  json: string
  altered: boolean
}

/** Cleans every text and key of a JSON value; what needs no cleaning is passed on as it is. */
export function cleanJson<T>(value: T): Clean<T> {
  const json = JSON.stringify(value)
  if (!suspicious.test(json)) return { value, json, altered: false }
  const cleaned = cleanValue(value) as T
  const cleanedJson = JSON.stringify(cleaned)
  return { value: cleaned, json: cleanedJson, altered: cleanedJson !== json }
}

function cleanValue(value: unknown): unknown {
  if (typeof value === 'string') return cleanText(value)
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map(cleanValue)
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [cleanText(key), cleanValue(item)]),
  )
}
