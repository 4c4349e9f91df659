/** The one normaliser of the times that records carry: milliseconds and `Z`, comparable as text. */

/** What an unreadable time becomes. */
export const epoch = '1970-01-01T00:00:00.000Z'

/** In that form already, and of a day that every month has. */
const isNormal =
  /^\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{3}Z$/
const hasZone = /[+-]\d\d:?\d\d|\dZ\b|\b[A-Z]{3,4}\b/

/**
 * The time in ISO form with milliseconds, or the epoch when it can't be read or its year has not
 * four digits. A time without a zone is UTC.
 */
export function normaliseTime(text: string): string {
  if (isNormal.test(text)) return text
  const readings = hasZone.test(text) ? [text] : [`${text}Z`, `${text} UTC`, text]
  for (const reading of readings) {
    const date = new Date(reading)
    const year = date.getUTCFullYear()
    if (year >= 0 && year <= 9999) return date.toISOString()
  }
  return epoch
}

/** The earlier of two normalised times. */
export function earlier(a: string, b: string): string {
  return a < b ? a : b
}
