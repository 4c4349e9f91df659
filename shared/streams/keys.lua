-- Remembers signing keys of accounts, in buckets that stay small.
--
-- KEYS  the bucket of each entry
-- ARGV  'newer' or '', fields in a bucket at most, then for each entry: field, value
--
-- A value begins with its hour, two bytes. With 'newer' what is there and newer stays. A full
-- bucket gives up a field for a new one: larger ones would take three times the memory a field.

local function hour(value)
  return string.byte(value, 1) * 256 + string.byte(value, 2)
end

for i, bucket in ipairs(KEYS) do
  local field, value = ARGV[2 * i + 1], ARGV[2 * i + 2]
  local there = redis.call('HGET', bucket, field)
  local ahead = there and (hour(there) - hour(value)) % 65536 or 0
  local stays = ARGV[1] == 'newer' and ahead > 0 and ahead < 32768
  if not stays then
    if not there and redis.call('HLEN', bucket) >= tonumber(ARGV[2]) then
      redis.call('HDEL', bucket, redis.call('HRANDFIELD', bucket))
    end
    redis.call('HSET', bucket, field, value)
  end
end
return #KEYS
