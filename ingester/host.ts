/** Hosts as operators write them: with or without a scheme. Pure. */

export interface Host {
  /** As the operator wrote it: older workers put this into their cursor keys. */
  raw: string
  /** Without scheme and trailing slash: what logs, metrics and cursor keys show. */
  name: string
  /** The base of its HTTP endpoints, without trailing slash. */
  http: string
  /** The base of its event streams, without trailing slash. */
  ws: string
}

/** Reads a host; `ws:` and `http:` mean without TLS, everything else with it. Throws an Error that says what was expected. */
export function parseHost(raw: string): Host {
  const match = /^(?:(wss?|https?):\/\/)?([^/?#@\s]+)\/*$/i.exec(raw)
  const name = match?.[2]
  if (name === undefined || !URL.canParse(`http://${name}`)) {
    throw new Error(`must be a host such as bsky.network or ws://localhost:2470, not ${raw}`)
  }
  const scheme = match?.[1]?.toLowerCase()
  const tls = scheme === 'ws' || scheme === 'http' ? '' : 's'
  return { raw, name, http: `http${tls}://${name}`, ws: `ws${tls}://${name}` }
}
