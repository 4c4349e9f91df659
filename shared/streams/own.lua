-- Reads a page of what this consumer has pending.
--
-- KEYS  stream
-- ARGV  group, consumer, after which id, how many
-- Gives {{id, fields or nil where the payload is gone, deliveries}, ...}

local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local reply = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', ARGV[4],
  'STREAMS', stream, ARGV[3])
local entries = reply and reply[1] and reply[1][2] or {}
if #entries == 0 then return {} end
local deliveries = {}
local pending = redis.call('XPENDING', stream, group, entries[1][1], entries[#entries][1],
  #entries, consumer)
for _, entry in ipairs(pending) do deliveries[entry[1]] = entry[4] end
for i, entry in ipairs(entries) do
  entries[i] = {entry[1], entry[2], deliveries[entry[1]] or 1}
end
return entries
