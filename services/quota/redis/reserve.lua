-- Hold what requests take of all limits, or of none, for each request id, in order. Atomic.
--
-- Redis' clock determines the day, clamped to the range that the caller's monotonic clock allows, so that a clock step
-- grants no requests. Old days have no TTL, since a step would expire them; the sweeper removes them.
--
-- What a request takes of a limit is `base` + `rate` for each million tokens of output, rounded up. The output is the
-- largest one up to the wanted one that all limits allow.
--
-- KEYS[1]  quota:{bucket}:account:account_id   prefix of the account's entries; the day is appended here, or the month
-- KEYS[2]  quota:{bucket}:holds                deadline of each hold of the bucket
-- ARGV     clock offset in seconds, earliest and latest possible day, lifetime of a hold in milliseconds, account id,
--          key id, tokens of output that are wanted (0 for requests without an estimate), number of limits, counters of
--          limits that are not set, separated by blanks (`@month` after those of a month), then for each limit its window (day, minute, month or concurrent), counter, limit, base, rate, initial count ('' for
--          none) and the day of the initial count; then request ids
-- Returns  {day, now in milliseconds, 0, then for each limit whether it has no counter (1 or 0)} if one has neither a
--          counter nor an initial count for this window; otherwise {day, now in milliseconds, 1, then for each request
--          id: held (1) or denied (0), tokens of output, then for each limit: charged, held}; without request ids, for
--          each limit: charged, held

local FIELDS, FIRST, MINUTES_AHEAD_MAX = 7, 10, 10
local offset_seconds, first_day, last_day = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local hold_ms, account_id, key_id = tonumber(ARGV[4]), ARGV[5], ARGV[6]
local wanted_output, limits_count = tonumber(ARGV[7]), tonumber(ARGV[8])
local first_id = FIRST + FIELDS * limits_count

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local seconds = tonumber(time[1]) + offset_seconds
local day = math.max(first_day, math.min(last_day, math.floor(seconds / 86400)))
local minute = string.format('%d', math.floor(seconds / 60))
local day_text = string.format('%d', day)
local entries = KEYS[1] .. ':' .. day_text

-- The first day of the month of a day, by the algorithm `civil_from_days` of Howard Hinnant.
local function month_of(days)
  local shifted = days + 719468
  local of_era = shifted % 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * of_year + 2) / 153)
  return days - (of_year - math.floor((153 * month + 2) / 5))
end

local fields, month_fields, previous_fields, month = {}, {}, {}, nil
for i = FIRST, first_id - 1, FIELDS do
  local window, counter = ARGV[i], ARGV[i + 1]
  if window == 'month' then
    month = month or month_of(day)
    month_fields[#month_fields + 1] = counter
    month_fields[#month_fields + 1] = counter .. ':held'
    month_fields[#month_fields + 1] = counter .. ':limit'
  else
    fields[#fields + 1] = counter
    fields[#fields + 1] = counter .. ':held'
    fields[#fields + 1] = counter .. (window == 'minute' and ':minute' or ':limit')
    if window == 'concurrent' then
      previous_fields[#previous_fields + 1] = counter .. ':held'
    end
  end
end
for i = first_id, #ARGV do
  fields[#fields + 1] = ARGV[i]
end
-- Counters of limits that are no longer set miss what is charged from now on. They are dropped, and start from the ledger
-- when their limits are set again.
local unused = {}
for counter in string.gmatch(ARGV[9], '%S+') do
  unused[#unused + 1] = counter
  fields[#fields + 1] = counter
end
local values = redis.call('HMGET', entries, unpack(fields))
local month_text = month and string.format('%d', month)
local month_entries = month and KEYS[1] .. ':month:' .. month_text
local month_values = month and redis.call('HMGET', month_entries, unpack(month_fields))
-- Holds of the previous day that are not settled yet are in flight too.
local previous_values = next(previous_fields) and redis.call('HMGET', KEYS[1] .. ':' .. string.format('%d', day - 1), unpack(previous_fields))

local limits, changes, month_changes, missing, is_missing = {}, {}, {}, {day, now_ms, 0}, false
local at, month_at, previous_at = 1, 1, 1
for n = 1, limits_count do
  local i = FIRST + FIELDS * (n - 1)
  local one = {
    window = ARGV[i],
    counter = ARGV[i + 1],
    limit = tonumber(ARGV[i + 2]),
    base = tonumber(ARGV[i + 3]),
    rate = tonumber(ARGV[i + 4]),
  }
  local charged, held, third
  if one.window == 'month' then
    charged, held, third = month_values[month_at], month_values[month_at + 1], month_values[month_at + 2]
    one.changes, one.name, month_at = month_changes, one.counter .. '@' .. month_text, month_at + 3
  else
    charged, held, third = values[at], values[at + 1], values[at + 2]
    one.changes, one.name, at = changes, one.counter, at + 3
  end
  one.charged, one.held = tonumber(charged), tonumber(held or 0)
  if one.window == 'concurrent' then
    one.charged, one.held = 0, one.held + tonumber(previous_values[previous_at] or 0)
    previous_at = previous_at + 1
  elseif one.window == 'minute' then
    -- A clock that steps back by some minutes does not start the minute over.
    local ahead = (tonumber(third) or 0) - tonumber(minute)
    one.minute = ahead > 0 and ahead <= MINUTES_AHEAD_MAX and third or minute
    one.name = one.counter .. '@' .. one.minute
    if third ~= one.minute then
      one.charged, one.held = 0, 0
      one.is_new = true
    end
  else
    local highest = tonumber(third or -1)
    local start = one.window == 'month' and month_text or day_text
    if not one.charged and ARGV[i + 5] ~= '' and ARGV[i + 6] == start then
      -- An existing counter wins: another replica may have initialised and charged it since the ledger was read.
      one.charged = tonumber(ARGV[i + 5])
      -- The ledger's charges were within the limit at their time, which may have been lowered since.
      highest = one.charged
      one.changes[#one.changes + 1] = one.counter
      one.changes[#one.changes + 1] = one.charged
      one.changes[#one.changes + 1] = one.counter .. ':limit'
      one.changes[#one.changes + 1] = highest
    end
    if one.limit > highest then
      one.changes[#one.changes + 1] = one.counter .. ':limit'
      one.changes[#one.changes + 1] = one.limit
    end
  end
  missing[3 + n] = one.charged and 0 or 1
  is_missing = is_missing or not one.charged
  limits[n] = one
end
if is_missing then
  return missing
end
for n, counter in ipairs(unused) do
  if values[at + #ARGV - first_id + n] then
    local name, suffix = string.match(counter, '^([^@]+)(@?%l*)$')
    local hash = suffix == '' and entries or KEYS[1] .. ':month:' .. string.format('%d', month_of(day))
    redis.call('HDEL', hash, name, name .. ':held', name .. ':limit')
    redis.call('HDEL', entries, counter)
  end
end

-- The largest output that fits into what a limit has left; negative if not even the base does.
local function output_left(one, wanted)
  local left = one.limit - one.charged - one.held - one.base
  if left < 0 or one.rate == 0 then
    return left < 0 and -1 or wanted
  end
  return math.min(wanted, math.floor(left * 1000000 / one.rate))
end

local least_output = math.min(1, wanted_output)
local answer, held_ids = {day, now_ms, 1}, {}
for i = first_id, #ARGV do
  local request_id = ARGV[i]
  local is_held, output = values[at + i - first_id] or held_ids[request_id], wanted_output
  if is_held then
    output = tonumber(string.match(held_ids[request_id] or is_held, '^%d+ [^ ]+ [^ ]+ (%d+)') or 0)
  else
    for _, one in ipairs(limits) do
      output = math.min(output, output_left(one, output))
    end
    if output >= least_output then
      local taken, month_taken = '', ''
      for _, one in ipairs(limits) do
        local amount = one.base + math.ceil(output * one.rate / 1000000)
        one.held = one.held + amount
        if one.window ~= 'concurrent' then
          taken = taken .. ' ' .. one.name .. ' ' .. amount
        end
        if one.window == 'month' then
          month_taken = month_taken .. ' ' .. one.counter .. ' ' .. amount
        end
      end
      is_held = now_ms .. ' ' .. account_id .. ' ' .. key_id .. ' ' .. output
      held_ids[request_id] = is_held
      changes[#changes + 1] = request_id
      changes[#changes + 1] = is_held .. taken
      if month then
        month_changes[#month_changes + 1] = request_id
        month_changes[#month_changes + 1] = is_held .. month_taken
      end
      redis.call('ZADD', KEYS[2], now_ms + hold_ms, account_id .. ' ' .. day_text .. ' ' .. request_id)
    end
  end
  answer[#answer + 1] = is_held and 1 or 0
  answer[#answer + 1] = is_held and output or 0
  for _, one in ipairs(limits) do
    answer[#answer + 1] = one.charged
    answer[#answer + 1] = one.held
  end
end
if first_id > #ARGV then
  for _, one in ipairs(limits) do
    answer[#answer + 1] = one.charged
    answer[#answer + 1] = one.held
  end
end
if next(held_ids) then
  for _, one in ipairs(limits) do
    if one.window ~= 'concurrent' then
      one.changes[#one.changes + 1] = one.counter .. ':held'
      one.changes[#one.changes + 1] = one.held
    end
    if one.window == 'month' then
      -- The day's entries say that its requests are counted in the month.
      changes[#changes + 1] = one.counter .. '@month'
      changes[#changes + 1] = 1
    end
    if one.is_new then
      one.changes[#one.changes + 1] = one.counter
      one.changes[#one.changes + 1] = 0
      one.changes[#one.changes + 1] = one.counter .. ':minute'
      one.changes[#one.changes + 1] = one.minute
    end
  end
end
if #changes > 0 then
  redis.call('HSET', entries, unpack(changes))
end
if #month_changes > 0 then
  redis.call('HSET', month_entries, unpack(month_changes))
end
return answer
