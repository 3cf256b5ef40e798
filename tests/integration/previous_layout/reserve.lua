-- Hold a slot for each request id of one key, in order. Atomic.
--
-- Redis' clock determines the day, clamped to the range that the caller's monotonic clock allows, so that a clock step
-- grants no requests. Old days have no TTL, since a step would expire them; the sweeper removes them.
--
-- KEYS[1]  quota:{bucket}:key_id     prefix of the key's entries; the day is appended here
-- KEYS[2]  quota:{bucket}:deadlines  deadline of each hold of the bucket
-- ARGV     clock offset in seconds, earliest and latest possible day, lifetime of a hold in milliseconds, key id,
--          account id, limit, day of the initial count ('' for none), initial count, request ids …
-- Returns  {day, now in milliseconds, 0} if there is neither a counter nor an initial count for this day; otherwise
--          {day, now in milliseconds, 1, then for each request id: held (1) or denied (0), charged, held count}

local offset_seconds, first_day, last_day = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local hold_ms, key_id, account_id, limit = tonumber(ARGV[4]), ARGV[5], ARGV[6], tonumber(ARGV[7])
local initial_day, initial_count = ARGV[8], ARGV[9]

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local day = math.floor((tonumber(time[1]) + offset_seconds) / 86400)
day = math.max(first_day, math.min(last_day, day))
local entries = KEYS[1] .. ':' .. string.format('%d', day)

local charged = tonumber(redis.call('HGET', entries, 'charged'))
local highest_limit = tonumber(redis.call('HGET', entries, 'limit') or -1)
if not charged then
  if initial_day ~= string.format('%d', day) then
    return {day, now_ms, 0}
  end
  -- An existing counter wins: another replica may have initialised and charged it since the ledger was read.
  charged = tonumber(initial_count)
  redis.call('HSET', entries, 'charged', charged)
  -- The ledger's charges were within the limit at their time, which may have been lowered since.
  highest_limit = charged
  redis.call('HSET', entries, 'limit', highest_limit)
end

if limit > highest_limit then
  redis.call('HSET', entries, 'limit', limit)
end

local held = redis.call('HLEN', entries) - 2
local answer = {day, now_ms, 1}
for i = 10, #ARGV do
  local request_id = ARGV[i]
  local is_held = redis.call('HEXISTS', entries, request_id)
  if is_held == 0 and charged + held < limit then
    redis.call('HSET', entries, request_id, now_ms .. ' ' .. account_id)
    redis.call('ZADD', KEYS[2], now_ms + hold_ms, key_id .. ' ' .. day .. ' ' .. request_id)
    held = held + 1
    is_held = 1
  end
  answer[#answer + 1] = is_held
  answer[#answer + 1] = charged
  answer[#answer + 1] = held
end
return answer
