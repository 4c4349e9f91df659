-- Takes the fence: a token above every earlier one, so that earlier holders are refused.
--
-- KEYS  fence
-- ARGV  a word of the taker's own: two takers on both sides of a Redis that went back may come to
--       the same number
-- Gives the token, 'number:word'

local held = tonumber(string.match(redis.call('GET', KEYS[1]) or '0', '^%d+')) or 0
local token = string.format('%d:%s', held + 1, ARGV[1])
redis.call('SET', KEYS[1], token)
return token
