-- Counts pending entries whose payload is gone, a page at a time.
--
-- KEYS  stream
-- ARGV  group, after which id, how many
-- Gives {the last id looked at or '' at the end, entries looked at, of them without payload}

local from = ARGV[2] == '' and '-' or '(' .. ARGV[2]
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], from, '+', ARGV[3])
local gone = 0
for _, entry in ipairs(pending) do
  if #redis.call('XRANGE', KEYS[1], entry[1], entry[1]) == 0 then gone = gone + 1 end
end
local last = #pending == tonumber(ARGV[3]) and pending[#pending][1] or ''
return {last, #pending, gone}
