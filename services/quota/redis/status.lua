-- Read a key's counter and number of holds for today.
--
-- KEYS[1]  quota:{bucket}:key_id
-- ARGV     clock offset in seconds, earliest and latest possible day
-- Returns  {day, charged, held}; charged is -1 if there is no counter yet

local time = redis.call('TIME')
local day = math.floor((tonumber(time[1]) + tonumber(ARGV[1])) / 86400)
day = math.max(tonumber(ARGV[2]), math.min(tonumber(ARGV[3]), day))
local entries = KEYS[1] .. ':' .. string.format('%d', day)
local charged = tonumber(redis.call('HGET', entries, 'charged'))
if not charged then
  return {day, -1, 0}
end
return {day, charged, redis.call('HLEN', entries) - 2}
