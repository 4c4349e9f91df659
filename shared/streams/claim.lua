-- Takes over pending entries of the whole group that nobody has touched for long.
--
-- KEYS  stream, ledger
-- ARGV  group, consumer, idle milliseconds, where the scan goes on, how many
-- Gives {where the scan goes on, {{id, fields, deliveries}, ...}, entries whose payload was gone}
--
-- XAUTOCLAIM itself acknowledges what has no payload any more: here is the only place to count it.

local stream, group = KEYS[1], ARGV[1]
local reply = redis.call('XAUTOCLAIM', stream, group, ARGV[2], ARGV[3], ARGV[4], 'COUNT', ARGV[5])
local entries = {}
for i, entry in ipairs(reply[2]) do
  local pending = redis.call('XPENDING', stream, group, entry[1], entry[1], 1)[1]
  entries[i] = {entry[1], entry[2], pending and pending[4] or 1}
end
local gone = reply[3] and #reply[3] or 0
if gone > 0 then redis.call('HINCRBY', KEYS[2], 'nil', gone) end
return {reply[1], entries, gone}
