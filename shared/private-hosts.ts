/** Which hosts we may be sent to by strangers: only those on the public internet. */
import { type LookupAddress, lookup } from 'node:dns'
import { BlockList, isIP, type LookupFunction } from 'node:net'

/** A URL that leads to an address of our own network, or to no address that could be public. */
export class PrivateHostError extends Error {
  override readonly name = 'PrivateHostError'
  readonly code = 'EPRIVATEHOST'
}

/** IANA's special-purpose registries: what is not reachable from everywhere, or is not one host. */
const special = new BlockList()
for (const [network, bits] of [
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.0.0.0', 24],
  ['192.0.2.0', 24],
  ['192.88.99.0', 24],
  ['192.168.0.0', 16],
  ['198.18.0.0', 15],
  ['198.51.100.0', 24],
  ['203.0.113.0', 24],
  ['224.0.0.0', 3],
] as const) {
  special.addSubnet(network, bits, 'ipv4')
}
// Within 2000::/3; 6to4 and Teredo carry an IPv4 address that would escape the list above.
for (const [network, bits] of [
  ['2001::', 23],
  ['2001:db8::', 32],
  ['2002::', 16],
] as const) {
  special.addSubnet(network, bits, 'ipv6')
}
const globalUnicast = new BlockList()
globalUnicast.addSubnet('2000::', 3, 'ipv6')

/** True for an IP address that anyone on the internet would reach the same host by. */
export function isPublicAddress(address: string): boolean {
  const family = isIP(address)
  if (family === 4) return !special.check(address, 'ipv4')
  if (family === 6) return globalUnicast.check(address, 'ipv6') && !special.check(address, 'ipv6')
  return false
}

/** Throws PrivateHostError when the URL names an address that is not public; names pass. */
export function assertPublicAddress(url: URL): void {
  const host = bareHost(url)
  if (isIP(host) && !isPublicAddress(host))
    throw new PrivateHostError(`${host} is a private address`)
}

function bareHost(url: URL): string {
  return url.hostname.replace(/^\[(.*)\]$/, '$1')
}

/**
 * The `lookup` of a connection: gives public addresses only, so that what was checked is what is
 * connected to. Sockets do not ask it about addresses written out: `assertPublicAddress` before.
 */
export const publicLookup: LookupFunction = (hostname, options, callback) => {
  lookup(hostname, { ...options, all: true }, (error, addresses: LookupAddress[]) => {
    if (error) return callback(error, '', 0)
    const [first] = addresses
    if (!first || !addresses.every(({ address }) => isPublicAddress(address))) {
      return callback(new PrivateHostError(`${hostname} is at a private address`), '', 0)
    }
    return options.all ? callback(null, addresses) : callback(null, first.address, first.family)
  })
}
