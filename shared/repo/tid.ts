/** TIDs: the sortable time identifiers of revs and record keys (spec: record key, "TID"). */

const form = /^[234567abcdefghij][234567abcdefghijklmnopqrstuvwxyz]{12}$/
const alphabet = '234567abcdefghijklmnopqrstuvwxyz'
const clockBits = 10n
/** Characters before those of the clock id. */
const timeLength = 11
const two = '2'.charCodeAt(0)
const a = 'a'.charCodeAt(0)

/** True for the 13 characters of a TID. */
export function isTid(text: string): boolean {
  return form.test(text)
}

/** The order of two valid TIDs, which is that of their texts: negative, zero or positive. */
export function compareTids(left: string, right: string): number {
  if (left === right) return 0
  return left < right ? -1 : 1
}

/** The moment that a valid TID names, in milliseconds since 1970, with microseconds as a fraction. */
export function tidTime(tid: string): number {
  let value = 0
  for (let index = 0; index < timeLength; index++) {
    const code = tid.charCodeAt(index)
    value = value * 32 + (code < a ? code - two : code - a + 6)
  }
  return value / 1_000
}

/** The TID of a moment, in whole microseconds since 1970, and a clock id of 0 to 1023. */
export function tidOf(microseconds: number, clock = 0): string {
  let value = (BigInt(microseconds) << clockBits) | BigInt(clock)
  let text = ''
  for (let index = 0; index < 13; index++) {
    text = alphabet[Number(value & 31n)] + text
    value >>= 5n
  }
  return text
}
