/** Signing keys by account in one block of memory: 1 million take 60 MB, and no garbage. Pure. */
import { nameBytes, nameOf, packedPoint, packPoint, unpackPoint } from '../shared/identity-keys.ts'

/** Places of a bucket: with four of five taken one account in a hundred meets a full one. */
const ways = 32
/** Places for each account. */
const spare = 1.25
/** Name, key, the hour it was seen, whether it was asked for of late. */
const hourAt = nameBytes + packedPoint
const usedAt = hourAt + 4
const placeBytes = usedAt + 1
const hourMs = 3_600_000

export interface KeyCache {
  /** The key as `packKey` gives it, and when it was seen, to the hour; null when there is none. */
  get(did: string): { key: string; at: number } | null
  /** Remembers a key; in a full bucket one that nobody asked for of late gives way. */
  set(did: string, key: string, at: number): void
  delete(did: string): void
  /** Keys that are remembered. */
  readonly size: number
}

/** Room for so many accounts, most of which find a place. */
export function createKeyCache(accounts: number): KeyCache {
  const buckets = Math.max(1, Math.ceil((accounts * spare) / ways))
  // Zeroed by the system as it is touched: an empty cache takes no memory.
  const places = Buffer.from(new ArrayBuffer(buckets * ways * placeBytes))
  let size = 0

  const bucketOf = (name: Buffer) => (name.readUInt32BE(2) % buckets) * ways * placeBytes
  const isFree = (place: number) => places.readUInt32LE(place + hourAt) === 0
  const find = (name: Buffer): number | null => {
    const first = bucketOf(name)
    const word = name.readUInt32LE()
    for (let way = 0; way < ways; way += 1) {
      const place = first + way * placeBytes
      if (places.readUInt32LE(place) !== word) continue
      if (name.compare(places, place, place + nameBytes) === 0 && !isFree(place)) return place
    }
    return null
  }

  /** A free place, else one that nobody asked for since the last time that none was found. */
  const makeRoom = (name: Buffer): number => {
    const first = bucketOf(name)
    let idle: number | null = null
    for (let way = 0; way < ways; way += 1) {
      const place = first + way * placeBytes
      if (isFree(place)) return place
      if (idle === null && places[place + usedAt] === 0) idle = place
    }
    if (idle !== null) return idle
    for (let way = 0; way < ways; way += 1) places[first + way * placeBytes + usedAt] = 0
    return first + ((name[nameBytes - 1] ?? 0) % ways) * placeBytes
  }

  return {
    get(did) {
      const place = find(nameOf(did))
      if (place === null) return null
      places[place + usedAt] = 1
      const at = places.readUInt32LE(place + hourAt) * hourMs
      return { key: unpackPoint(places, place + nameBytes), at }
    },
    set(did, key, at) {
      const name = nameOf(did)
      const place = find(name) ?? makeRoom(name)
      if (isFree(place)) size += 1
      name.copy(places, place)
      packPoint(key, places, place + nameBytes)
      places.writeUInt32LE(Math.floor(at / hourMs), place + hourAt)
      places[place + usedAt] = 1
    },
    delete(did) {
      const place = find(nameOf(did))
      if (place === null) return
      places.fill(0, place, place + placeBytes)
      size -= 1
    },
    get size() {
      return size
    },
  }
}
