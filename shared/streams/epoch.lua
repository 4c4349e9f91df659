-- Begins a new epoch of chain states when the stored cursor is not the one that our append wrote last:
-- an older worker has moved it since, or somebody set it. States of older epochs count as absent.
--
-- KEYS  chain, gaps, cursor...
-- ARGV  name of the gap's source: host, stream; the time, for the ledger
-- Gives {epoch} or, when one began after a stretch that we did not read, {epoch, from, to}

local function ahead(new, old)
  new, old = string.gsub(new, '^0+', ''), string.gsub(old, '^0+', '')
  if #new ~= #old then return #new > #old end
  return new > old
end

local stored = ''
for key = 3, #KEYS do
  local cursor = redis.call('GET', KEYS[key])
  if cursor and string.match(cursor, '^%d+$') and (stored == '' or ahead(cursor, stored)) then
    stored = string.gsub(cursor, '^0+(%d)', '%1')
  end
end

local held = redis.call('HMGET', KEYS[1], 'epoch', KEYS[3])
local epoch, written = tonumber(held[1] or 0), held[2] and string.match(held[2], '^%d*')
if epoch > 0 and (not written or written == stored) then
  if not written and stored ~= '' then redis.call('HSET', KEYS[1], KEYS[3], stored .. ' ') end
  return {epoch}
end

-- Two bytes of each state hold it; 0 is none.
epoch = epoch % 65535 + 1
redis.call('HSET', KEYS[1], 'epoch', epoch, KEYS[3], stored .. ' ')
if not written then return {epoch} end
local gap = {
  stream = ARGV[2], host = ARGV[1], from = written, to = stored,
  reason = 'epoch', opened_at = ARGV[3],
}
local name = table.concat({ARGV[2], ARGV[1], 'epoch', written}, ' ')
redis.call('HSET', KEYS[2], name, cjson.encode(gap))
return {epoch, written, stored}
