-- Hold a request of all limits, or of none, for each request id, in order. Atomic.
--
-- Redis' clock determines the day, clamped to the range that the caller's monotonic clock allows, so that a clock step
-- grants no requests. Old days have no TTL, since a step would expire them; the sweeper removes them.
--
-- KEYS[1]  quota:{bucket}:account:account_id   prefix of the account's entries; the day is appended here
-- KEYS[2]  quota:{bucket}:holds                deadline of each hold of the bucket
-- ARGV     clock offset in seconds, earliest and latest possible day, lifetime of a hold in milliseconds, account id,
--          key id, day of the initial counts ('' for none), number of limits, then for each limit its counter, limit,
--          wanted amount and initial count ('' for none); then request ids
-- Returns  {day, now in milliseconds, 0, then for each limit whether it has no counter (1 or 0)} if one has neither a
--          counter nor an initial count for this day; otherwise {day, now in milliseconds, 1, then for each request id:
--          held (1) or denied (0), then for each limit: charged, held amount}

local offset_seconds, first_day, last_day = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local hold_ms, account_id, key_id, initial_day = tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7]
local limits_count = tonumber(ARGV[8])
local first_id = 9 + 4 * limits_count

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local day = math.floor((tonumber(time[1]) + offset_seconds) / 86400)
day = math.max(first_day, math.min(last_day, day))
local day_text = string.format('%d', day)
local entries = KEYS[1] .. ':' .. day_text

local fields = {}
for i = 9, first_id - 1, 4 do
  fields[#fields + 1] = ARGV[i]
  fields[#fields + 1] = ARGV[i] .. ':held'
  fields[#fields + 1] = ARGV[i] .. ':limit'
end
for i = first_id, #ARGV do
  fields[#fields + 1] = ARGV[i]
end
local values = redis.call('HMGET', entries, unpack(fields))

local limits, taken, changes, missing = {}, '', {}, {day, now_ms, 0}
for n = 1, limits_count do
  local position, at = 5 + 4 * n, 3 * n - 2
  local limit = {
    charged = tonumber(values[at]),
    held = tonumber(values[at + 1] or 0),
    limit = tonumber(ARGV[position + 1]),
    amount = tonumber(ARGV[position + 2]),
  }
  local highest = tonumber(values[at + 2] or -1)
  missing[3 + n] = limit.charged and 0 or 1
  if not limit.charged and initial_day == day_text and ARGV[position + 3] ~= '' then
    -- An existing counter wins: another replica may have initialised and charged it since the ledger was read.
    limit.charged = tonumber(ARGV[position + 3])
    changes[#changes + 1] = fields[at]
    changes[#changes + 1] = limit.charged
    -- The ledger's charges were within the limit at their time, which may have been lowered since.
    highest = limit.charged
    changes[#changes + 1] = fields[at + 2]
    changes[#changes + 1] = highest
  end
  if limit.limit > highest then
    changes[#changes + 1] = fields[at + 2]
    changes[#changes + 1] = limit.limit
  end
  limits[n] = limit
  taken = taken .. ' ' .. fields[at] .. ' ' .. ARGV[position + 2]
end
for n = 1, limits_count do
  if not limits[n].charged then
    return missing
  end
end

local answer, held_ids = {day, now_ms, 1}, {}
for i = first_id, #ARGV do
  local request_id = ARGV[i]
  local is_held = values[3 * limits_count + i - first_id + 1] or held_ids[request_id]
  if not is_held then
    is_held = true
    for _, one in ipairs(limits) do
      if one.charged + one.held + one.amount > one.limit then
        is_held = false
      end
    end
    if is_held then
      for _, one in ipairs(limits) do
        one.held = one.held + one.amount
      end
      held_ids[request_id] = true
      changes[#changes + 1] = request_id
      changes[#changes + 1] = now_ms .. ' ' .. account_id .. ' ' .. key_id .. taken
      redis.call('ZADD', KEYS[2], now_ms + hold_ms, account_id .. ' ' .. day_text .. ' ' .. request_id)
    end
  end
  answer[#answer + 1] = is_held and 1 or 0
  for _, one in ipairs(limits) do
    answer[#answer + 1] = one.charged
    answer[#answer + 1] = one.held
  end
end
if next(held_ids) then
  for n = 1, limits_count do
    changes[#changes + 1] = fields[3 * n - 1]
    changes[#changes + 1] = limits[n].held
  end
end
if #changes > 0 then
  redis.call('HSET', entries, unpack(changes))
end
return answer
